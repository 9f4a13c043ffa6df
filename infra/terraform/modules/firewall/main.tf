# Who may speak to whom. Each row of `flows` opens one port at both of its ends, and there is nothing else.
#
# The older aws_security_group_rule, because every version of the provider from 3.39 on knows it: so the rules are
# applied for real against the mock cloud (make cloud).

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 3.39"
    }
  }
}

locals {
  groups = {
    entrance = "The load balancer"
    member   = "Every machine: the gossip of Consul, and the way to AWS"
    gateway  = "Gateways, with nginx"
    worker   = "Workers"
    consul   = "Consul servers"
  }

  # Between groups. The ports are the playbooks' defaults.
  flows = {
    entrance = { from = "entrance", to = "gateway", protocol = "tcp", port = 443, why = "TLS, passed through to nginx" }
    images   = { from = "gateway", to = "worker", protocol = "tcp", port = var.ports.worker, why = "Images, by mutual TLS" }
    where    = { from = "gateway", to = "gateway", protocol = "tcp", port = var.ports.gateway, why = "nginx asks any gateway" }
    lookups  = { from = "gateway", to = "gateway", protocol = "tcp", port = var.ports.lookup, why = "nginx passes lookups to any gateway" }
    gossip   = { from = "member", to = "member", protocol = "tcp", port = 8301, why = "Consul gossip" }
    gossip2  = { from = "member", to = "member", protocol = "udp", port = 8301, why = "Consul gossip" }
    consul   = { from = "member", to = "consul", protocol = "tcp", port = 8300, why = "Consul calls, by mutual TLS" }
  }

  # From networks.
  entries = merge(
    { clients = { to = "entrance", port = 443, cidrs = var.client_cidrs, why = "Clients" } },
    length(var.monitoring_cidrs) == 0 ? {} : {
      gateway_metrics = { to = "gateway", port = var.ports.gateway, cidrs = var.monitoring_cidrs, why = "Prometheus" }
      worker_metrics  = { to = "worker", port = var.ports.worker, cidrs = var.monitoring_cidrs, why = "Prometheus" }
      node_metrics    = { to = "member", port = 9100, cidrs = var.monitoring_cidrs, why = "Prometheus" }
    },
  )
}

resource "aws_security_group" "this" {
  #checkov:skip=CKV2_AWS_5:They are attached in the modules hosts and entrance, which checkov does not follow.
  for_each    = local.groups
  name_prefix = "${var.name}-${each.key}-"
  description = each.value
  vpc_id      = var.network_id
  tags        = { Name = "${var.name}-${each.key}" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group_rule" "arrives" {
  for_each                 = local.flows
  type                     = "ingress"
  description              = each.value.why
  security_group_id        = aws_security_group.this[each.value.to].id
  source_security_group_id = aws_security_group.this[each.value.from].id
  protocol                 = each.value.protocol
  from_port                = each.value.port
  to_port                  = each.value.port
}

resource "aws_security_group_rule" "leaves" {
  for_each                 = local.flows
  type                     = "egress"
  description              = each.value.why
  security_group_id        = aws_security_group.this[each.value.from].id
  source_security_group_id = aws_security_group.this[each.value.to].id
  protocol                 = each.value.protocol
  from_port                = each.value.port
  to_port                  = each.value.port
}

resource "aws_security_group_rule" "enters" {
  for_each          = local.entries
  type              = "ingress"
  description       = each.value.why
  security_group_id = aws_security_group.this[each.value.to].id
  cidr_blocks       = each.value.cidrs
  protocol          = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
}

resource "aws_security_group_rule" "https" {
  type              = "egress"
  description       = "The interfaces of AWS, model stores, pictures by URL and webhooks"
  security_group_id = aws_security_group.this["member"].id
  cidr_blocks       = ["0.0.0.0/0"]
  protocol          = "tcp"
  from_port         = 443
  to_port           = 443
}
