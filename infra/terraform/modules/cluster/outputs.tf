output "url" {
  description = "Where clients ask, when the public name points at `address`."
  value       = "https://${var.domain}"
}

output "address" {
  description = "AWS's name of the load balancer."
  value       = module.entrance.address
}

output "parameters" {
  description = "Path of the cluster's secrets in the Parameter Store (`shoal cloud put` puts them there)."
  value       = local.parameters
}

output "groups" {
  description = "The auto-scaling groups."
  value = {
    consul  = module.consul.group
    gateway = module.gateways.group
    worker  = module.workers.group
  }
}

output "worker_role" {
  description = "The workers' role: attach to it what they need to read models from S3."
  value       = module.workers.role
}

output "try" {
  description = "A first prediction."
  value       = "shoal predict --gateway https://${var.domain} cat.jpg"
}

output "connect" {
  description = "A shell on the machines of a role, by Session Manager."
  value = {
    for role in ["consul", "gateway", "worker"] : role =>
    "aws ssm start-session --target $(aws ec2 describe-instances --filters Name=tag:shoal-cluster,Values=${var.name} Name=tag:shoal-role,Values=${role} Name=instance-state-name,Values=running --query 'Reservations[0].Instances[0].InstanceId' --output text)"
  }
}
