variable "name" {
  description = "Name of the cluster; begins the name of everything here."
  type        = string
}

variable "network_id" {
  description = "The network (VPC)."
  type        = string
}

variable "client_cidrs" {
  description = "Networks that may reach the load balancer."
  type        = list(string)

  validation {
    condition     = length(var.client_cidrs) > 0 && alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0))])
    error_message = "client_cidrs is a list of networks, such as [\"203.0.113.0/24\"]."
  }
}

variable "monitoring_cidrs" {
  description = "Networks from which Prometheus reads; none: nobody does."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.monitoring_cidrs : can(cidrhost(cidr, 0)) && cidr != "0.0.0.0/0"])
    error_message = "monitoring_cidrs is a list of networks, and not the whole internet."
  }
}

variable "ports" {
  description = "The gateways' public and internal listeners, and the workers' internal one."
  type        = object({ lookup = optional(number, 8080), gateway = optional(number, 8081), worker = optional(number, 8602) })
  default     = {}
}
