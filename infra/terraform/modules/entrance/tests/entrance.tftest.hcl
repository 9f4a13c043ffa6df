mock_provider "aws" {}

variables {
  name           = "test"
  network_id     = "vpc-1"
  subnets        = ["subnet-1", "subnet-2"]
  security_group = "sg-1"
  domain         = "shoal.example.org"
}

run "tls_passes_through" {
  assert {
    condition     = aws_lb.this.load_balancer_type == "network" && aws_lb_listener.tls.protocol == "TCP" && aws_lb_target_group.nginx.protocol == "TCP"
    error_message = "Nobody but nginx has the key."
  }
  assert {
    condition     = aws_lb_listener.tls.port == 443 && aws_lb_target_group.nginx.port == 443
    error_message = "The port is that of nginx."
  }
  assert {
    condition     = aws_lb_target_group.nginx.health_check[0].protocol == "HTTPS" && aws_lb_target_group.nginx.health_check[0].path == "/readyz"
    error_message = "It asks whether the gateway is ready, not whether a port is open."
  }
  assert {
    condition     = contains(aws_lb.this.security_groups, "sg-1") && aws_lb.this.enable_deletion_protection
    error_message = "It has its security group, and is protected."
  }
  assert {
    condition     = aws_lb_listener.tls.default_action[0].target_group_arn == aws_lb_target_group.nginx.arn
    error_message = "It leads to nginx."
  }
  assert {
    condition     = length(aws_route53_record.name) == 0
    error_message = "No name is made without a zone."
  }
}

run "with_a_name" {
  variables {
    zone_id = "Z1"
  }
  assert {
    condition     = aws_route53_record.name[0].name == "shoal.example.org" && aws_route53_record.name[0].alias[0].name == aws_lb.this.dns_name
    error_message = "The name is the load balancer's."
  }
}
