# A rack of five machines. Put your own here, then:
#
#   mkdir -p ../../../ansible/inventories/mine
#   terraform init && terraform apply && terraform output -raw inventory > ../../../ansible/inventories/mine/hosts.yml
#
# and go on as docs/ansible.md says.

terraform {
  required_version = ">= 1.9"
}

module "cluster" {
  source = "../../modules/on_premises"
  domain = "shoal.example.org"

  variables = {
    shoal_version    = "0.1.0"
    shoal_wheelhouse = "{{ inventory_dir }}/../../../../build/wheelhouse"
  }

  machines = {
    gateway1 = { address = "192.0.2.11", roles = ["consul", "gateway"] }
    gateway2 = { address = "192.0.2.12", roles = ["consul", "gateway"] }
    gpu1     = { address = "192.0.2.21", roles = ["consul", "worker"] }
    gpu2     = { address = "192.0.2.22", roles = ["worker"] }
    gpu3     = { address = "192.0.2.23", roles = ["worker"] }
  }
}

output "inventory" {
  description = "For ansible-playbook --inventory."
  value       = module.cluster.inventory
}
