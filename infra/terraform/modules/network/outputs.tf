output "id" {
  description = "The network (VPC)."
  value       = aws_vpc.this.id
}

output "public_subnets" {
  description = "One in each zone."
  value       = [for index in sort(keys(aws_subnet.public)) : aws_subnet.public[index].id]
}

output "private_subnets" {
  description = "One in each zone."
  value       = [for index in sort(keys(aws_subnet.private)) : aws_subnet.private[index].id]
}
