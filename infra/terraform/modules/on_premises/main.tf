# Machines that exist already: no cloud, no provider, only the inventory that the playbooks of infra/ansible take.

terraform {
  required_version = ">= 1.9"
}

locals {
  groups = {
    consul_servers = "consul"
    gateways       = "gateway"
    workers        = "worker"
    generators     = "generator"
  }

  inventory = {
    all = {
      vars = merge({
        ansible_user = var.user
        shoal_domain = var.domain
        shoal_models = var.models
      }, var.variables)
      children = {
        for group, role in local.groups : group => {
          hosts = {
            for name, machine in var.machines : name => merge({ ansible_host = machine.address }, machine.variables)
            if contains(machine.roles, role)
          }
        }
      }
    }
  }
}
