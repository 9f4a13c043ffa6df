variable "name" {
  description = "Name of the cluster, and of the load balancer."
  type        = string
}

variable "network_id" {
  description = "The network (VPC)."
  type        = string
}

variable "subnets" {
  description = "Public subnets."
  type        = list(string)
}

variable "security_group" {
  description = "The group entrance of the module firewall."
  type        = string
}

variable "domain" {
  description = "The public name, which nginx's certificate has."
  type        = string
}

variable "zone_id" {
  description = "Route 53 zone in which the name is made; empty: it is made elsewhere."
  type        = string
  default     = ""
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the load balancer."
  type        = bool
  default     = true
}
