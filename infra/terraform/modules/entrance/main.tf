# The public address. A network load balancer passes TLS through to nginx: the key is on the machines that answer, and
# nowhere else, HTTP/2 and the limits of nginx stay as they are tested, and nginx sees the client's own address.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 3.39"
    }
  }
}

resource "aws_lb" "this" {
  #checkov:skip=CKV_AWS_91:A network load balancer logs TLS listeners only; nginx writes the access log.
  #checkov:skip=CKV_AWS_150:deletion_protection is the user's; checkov reads a variable as off.
  #checkov:skip=CKV2_AWS_28:A web application firewall cannot stand before a network load balancer; nginx has the limits.
  name                             = var.name
  load_balancer_type               = "network"
  internal                         = false
  subnets                          = var.subnets
  security_groups                  = [var.security_group]
  enable_cross_zone_load_balancing = true
  enable_deletion_protection       = var.deletion_protection
  tags                             = { Name = var.name }
}

resource "aws_lb_target_group" "nginx" {
  name                 = var.name
  vpc_id               = var.network_id
  protocol             = "TCP"
  port                 = 443
  deregistration_delay = 60

  health_check {
    protocol            = "HTTPS"
    path                = "/readyz"
    interval            = 10
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "tls" {
  #checkov:skip=CKV_AWS_2:TLS is passed through and ends in nginx.
  #checkov:skip=CKV_AWS_103:TLS is passed through; nginx takes 1.2 and later.
  load_balancer_arn = aws_lb.this.arn
  protocol          = "TCP"
  port              = 443

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.nginx.arn
  }
}

resource "aws_route53_record" "name" {
  count   = var.zone_id == "" ? 0 : 1
  zone_id = var.zone_id
  name    = var.domain
  type    = "A"

  alias {
    name                   = aws_lb.this.dns_name
    zone_id                = aws_lb.this.zone_id
    evaluate_target_health = false
  }
}
