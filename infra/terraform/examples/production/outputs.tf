output "cluster" {
  description = "Address, groups, and how to try it and to connect."
  value       = module.cluster
}

output "alarms" {
  description = "Subscribe to this topic to hear of alarms."
  value       = aws_sns_topic.alarms.arn
}
