output "inventory" {
  description = "The inventory, as YAML."
  value       = yamlencode(local.inventory)
}

output "url" {
  description = "Where clients ask, when the public name points at the gateways."
  value       = "https://${var.domain}"
}
