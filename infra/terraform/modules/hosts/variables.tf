variable "cluster" {
  description = "Name of the cluster."
  type        = string
}

variable "role" {
  description = "What the machines do."
  type        = string

  validation {
    condition     = contains(["consul", "gateway", "worker"], var.role)
    error_message = "role is consul, gateway or worker."
  }
}

variable "image_id" {
  description = "The image that Packer built (infra/packer)."
  type        = string

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.image_id))
    error_message = "image_id is ami- and 8 to 17 hexadecimal digits."
  }
}

variable "instance_types" {
  description = "Which machines, the best first; several find spot capacity sooner."
  type        = list(string)

  validation {
    condition     = length(var.instance_types) > 0 && alltrue([for kind in var.instance_types : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", kind))])
    error_message = "instance_types is a list such as [\"g5.xlarge\"]."
  }
}

variable "subnets" {
  description = "Private subnets."
  type        = list(string)
}

variable "security_groups" {
  description = "Those of the module firewall that the role has."
  type        = list(string)
}

variable "minimum" {
  description = "Fewest machines, and how many there are at first."
  type        = number
}

variable "maximum" {
  description = "Most machines."
  type        = number

  validation {
    condition     = var.maximum >= var.minimum
    error_message = "maximum is at least minimum."
  }
}

variable "on_demand" {
  description = "How many are never spot instances."
  type        = number
  default     = 0
}

variable "spot_percent" {
  description = "How many of the others are, percent."
  type        = number
  default     = 0

  validation {
    condition     = var.spot_percent >= 0 && var.spot_percent <= 100
    error_message = "spot_percent is 0 to 100."
  }
}

variable "healthy_percent" {
  description = "How many stay while a new image is rolled out, percent."
  type        = number
  default     = 100
}

variable "launch_seconds" {
  description = "How long a machine may take until it is useful, before it is given up."
  type        = number
  default     = 900
}

variable "drain_seconds" {
  description = "How long the group waits for a machine that leaves and does not say that it still drains."
  type        = number
  default     = 300

  validation {
    condition     = var.drain_seconds >= 60 && var.drain_seconds <= 7200
    error_message = "drain_seconds is 60 to 7200."
  }
}

variable "disk_gib" {
  description = "Size of the disk."
  type        = number
  default     = 20
}

variable "root_device" {
  description = "The image's root device."
  type        = string
  default     = "/dev/xvda"
}

variable "kms_key_id" {
  description = "ARN of the key of disks and parameters; null: AWS's own."
  type        = string
  default     = null
}

variable "parameters" {
  description = "Path of the cluster's secrets in the Parameter Store; the machines read PATH/common and PATH/ROLE."
  type        = string

  validation {
    condition     = can(regex("^/[A-Za-z0-9_./-]*[A-Za-z0-9_-]$", var.parameters))
    error_message = "parameters is a path such as /shoal/production."
  }
}

variable "settings" {
  description = "What the first boot is told. Nothing secret: it is readable in the state and on the machine."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.settings), ["cluster", "role", "region", "parameters"])) == 0
    error_message = "settings may not name cluster, role, region or parameters."
  }

  validation {
    condition     = alltrue([for name in keys(var.settings) : !can(regex("(?i)secret|password|token|private|_key", name))])
    error_message = "settings is no place for secrets: put them below the parameters path."
  }
}

variable "statements" {
  description = "What else the role may do."
  type = list(object({
    actions   = list(string)
    resources = list(string)
    condition = optional(map(map(string)))
  }))
  default = []
}

variable "target_groups" {
  description = "Load balancer target groups to which the machines belong."
  type        = list(string)
  default     = []
}
