output "group" {
  description = "Name of the auto-scaling group."
  value       = aws_autoscaling_group.this.name
}

output "role" {
  description = "Name of the instances' role: policies for a store of models are attached to it."
  value       = aws_iam_role.this.name
}
