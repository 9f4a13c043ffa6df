variable "name" {
  description = "Name of the cluster; begins the name of everything in it."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,18}[a-z0-9]$", var.name))
    error_message = "name is 2 to 20 small letters, digits and hyphens, and begins with a letter."
  }
}

variable "image_id" {
  description = "The image that Packer built (infra/packer): one for all machines."
  type        = string
}

variable "domain" {
  description = "The public name of the cluster; nginx's certificate must have it."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain is a name such as shoal.example.org."
  }
}

variable "zone_id" {
  description = "Route 53 zone in which to make that name; empty: it is made elsewhere."
  type        = string
  default     = ""
}

variable "models" {
  description = "Models that every worker loads; [] when they are published with `shoal models add`."
  type        = list(string)
  default     = ["lite0"]
}

variable "client_cidrs" {
  description = "Networks that clients come from."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "monitoring_cidrs" {
  description = "Networks from which Prometheus reads; none: nobody does."
  type        = list(string)
  default     = []
}

variable "workers" {
  description = "The workers: on which machines, how few and how many, how many never on spot instances, and of the others how many percent on them."
  type = object({
    types        = optional(list(string), ["g5.xlarge"])
    minimum      = optional(number, 1)
    maximum      = optional(number, 4)
    on_demand    = optional(number, 0)
    spot_percent = optional(number, 0)
    disk_gib     = optional(number, 60)
  })
  default = {}

  validation {
    condition     = var.workers.minimum >= 1 && var.workers.maximum >= var.workers.minimum
    error_message = "workers.minimum is at least 1, and maximum is at least that."
  }
  validation {
    condition     = var.workers.on_demand <= var.workers.maximum
    error_message = "workers.on_demand is at most maximum."
  }
}

variable "gateways" {
  description = "The gateways, with nginx."
  type = object({
    count = optional(number, 2)
    type  = optional(string, "c6i.large")
  })
  default = {}

  validation {
    condition     = var.gateways.count >= 1 && var.gateways.count <= 50
    error_message = "gateways.count is 1 to 50."
  }
}

variable "consul" {
  description = "The Consul servers."
  type = object({
    servers = optional(number, 3)
    type    = optional(string, "t3.small")
  })
  default = {}

  validation {
    condition     = contains([1, 3, 5], var.consul.servers)
    error_message = "consul.servers is 3 or 5; 1 for a trial: its loss stops changes of the fleet."
  }
}

variable "target" {
  description = "How busy a worker is to be, 0.05 to 1."
  type        = number
  default     = 0.7

  validation {
    condition     = var.target >= 0.05 && var.target <= 1
    error_message = "target is 0.05 to 1."
  }
}

variable "network_cidr" {
  description = "Addresses of the network."
  type        = string
  default     = "10.80.0.0/16"
}

variable "zones" {
  description = "How many availability zones."
  type        = number
  default     = 2
}

variable "nat_per_zone" {
  description = "A NAT gateway in each zone, so that the loss of a zone does not cut off the others; else one."
  type        = bool
  default     = false
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the load balancer, and so the public address."
  type        = bool
  default     = true
}

variable "kms_key_id" {
  description = "ARN of your own key for disks, parameters and logs; null: AWS's."
  type        = string
  default     = null
}

variable "flow_log_days" {
  description = "How long refused connections are remembered."
  type        = number
  default     = 30
}

variable "alarm_topics" {
  description = "ARNs of SNS topics that hear of alarms."
  type        = list(string)
  default     = []
}

variable "root_device" {
  description = "The image's root device."
  type        = string
  default     = "/dev/xvda"
}
