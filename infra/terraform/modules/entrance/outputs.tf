output "address" {
  description = "AWS's name of the load balancer: point the public name at it, when no zone_id was given."
  value       = aws_lb.this.dns_name
}

output "target_group" {
  description = "Where gateways belong."
  value       = aws_lb_target_group.nginx.arn
}

output "dimensions" {
  description = "How alarms name the load balancer and its target group."
  value = {
    LoadBalancer = aws_lb.this.arn_suffix
    TargetGroup  = aws_lb_target_group.nginx.arn_suffix
  }
}
