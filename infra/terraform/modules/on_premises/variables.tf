variable "machines" {
  description = "The machines, by name: where Ansible reaches each, what it does, and what is particular to it."
  type = map(object({
    address   = string
    roles     = list(string)
    variables = optional(map(string), {})
  }))

  validation {
    condition     = alltrue([for name in keys(var.machines) : can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", name))])
    error_message = "A machine's name is small letters, digits and hyphens."
  }
  validation {
    condition = alltrue(flatten([for machine in values(var.machines) : [
      length(machine.roles) > 0,
      [for role in machine.roles : contains(["consul", "gateway", "worker", "generator"], role)],
    ]]))
    error_message = "Each machine has roles among consul, gateway, worker and generator."
  }
  validation {
    condition     = length(distinct([for machine in values(var.machines) : machine.address])) == length(var.machines)
    error_message = "Two machines have one address."
  }
  validation {
    condition     = contains([1, 3, 5], length([for machine in values(var.machines) : machine if contains(machine.roles, "consul")]))
    error_message = "1, 3 or 5 machines have the role consul."
  }
  validation {
    condition     = alltrue([for role in ["gateway", "worker"] : anytrue([for machine in values(var.machines) : contains(machine.roles, role)])])
    error_message = "At least one machine has the role gateway, and one the role worker."
  }
}

variable "domain" {
  description = "The public name of the cluster."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain is a name such as shoal.example.org."
  }
}

variable "models" {
  description = "Models that every worker loads; [] when they are published with `shoal models add`."
  type        = list(string)
  default     = ["lite0"]
}

variable "user" {
  description = "Who Ansible logs in as; may become root."
  type        = string
  default     = "root"
}

variable "variables" {
  description = "More variables of the playbooks, for all machines. Secrets belong into the vault, not here."
  type        = map(string)
  default     = {}
}
