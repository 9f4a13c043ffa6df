variable "name" {
  description = "Name of the cluster; begins the name of everything here."
  type        = string
}

variable "cidr" {
  description = "Addresses of the network. Of sixteen equal parts eight are for public subnets, eight for private ones."
  type        = string
  default     = "10.80.0.0/16"

  validation {
    condition     = can(cidrsubnet(var.cidr, 4, 15)) && try(tonumber(split("/", var.cidr)[1]) <= 24, false)
    error_message = "cidr is an IPv4 network of /24 or larger, such as 10.80.0.0/16."
  }
}

variable "zones" {
  description = "How many availability zones."
  type        = number
  default     = 2

  validation {
    condition     = var.zones >= 1 && var.zones <= 6 && floor(var.zones) == var.zones
    error_message = "zones is 1 to 6."
  }
}

variable "nat_per_zone" {
  description = "A NAT gateway in each zone, so that the loss of a zone does not cut off the others; else one."
  type        = bool
  default     = false
}

variable "flow_log_days" {
  description = "How long refused connections are remembered."
  type        = number
  default     = 30
}

variable "kms_key_id" {
  description = "ARN of the key that encrypts the flow logs; null: AWS's own."
  type        = string
  default     = null
}
