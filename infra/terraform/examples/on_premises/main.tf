# A rack of five machines. Put your own here, then:
#
#   terraform init && terraform apply && terraform output -raw inventory > inventory.yml
#   ansible-playbook --inventory inventory.yml ../../../ansible/site.yml

terraform {
  required_version = ">= 1.9"
}

module "cluster" {
  source = "../../modules/on_premises"
  domain = "shoal.example.org"

  machines = {
    front1 = { address = "192.0.2.11", roles = ["consul", "gateway"] }
    front2 = { address = "192.0.2.12", roles = ["consul", "gateway"] }
    gpu1   = { address = "192.0.2.21", roles = ["consul", "worker"] }
    gpu2   = { address = "192.0.2.22", roles = ["worker"] }
    gpu3   = { address = "192.0.2.23", roles = ["worker"] }
  }
}

output "inventory" {
  description = "For ansible-playbook --inventory."
  value       = module.cluster.inventory
}
