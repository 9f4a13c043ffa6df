output "groups" {
  description = "The security groups, by name: entrance, member, gateway, worker, consul."
  value       = { for name, group in aws_security_group.this : name => group.id }
}
