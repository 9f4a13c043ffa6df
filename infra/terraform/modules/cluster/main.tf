# A whole cluster: Consul servers, gateways with nginx behind one public address, and workers that follow the load.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 3.39"
    }
  }
}

data "aws_region" "here" {}

data "aws_caller_identity" "here" {}

locals {
  parameters = "/shoal/${var.name}"
  workers    = "${var.name}-worker"
  workers_arn = format("arn:aws:autoscaling:%s:%s:autoScalingGroup:*:autoScalingGroupName/%s",
  data.aws_region.here.id, data.aws_caller_identity.here.account_id, local.workers)
  namespace = "Shoal"

  # What every machine is told. Nothing of it is secret.
  settings = {
    domain         = var.domain
    network        = var.network_cidr
    models         = join(",", var.models)
    consul_servers = tostring(var.consul.servers)
    scaled_group   = local.workers
    target         = tostring(var.target)
  }
}

module "network" {
  source        = "../network"
  name          = var.name
  cidr          = var.network_cidr
  zones         = var.zones
  nat_per_zone  = var.nat_per_zone
  flow_log_days = var.flow_log_days
  kms_key_id    = var.kms_key_id
}

module "firewall" {
  source           = "../firewall"
  name             = var.name
  network_id       = module.network.id
  client_cidrs     = var.client_cidrs
  monitoring_cidrs = var.monitoring_cidrs
}

module "entrance" {
  source              = "../entrance"
  name                = var.name
  network_id          = module.network.id
  subnets             = module.network.public_subnets
  security_group      = module.firewall.groups["entrance"]
  domain              = var.domain
  zone_id             = var.zone_id
  deletion_protection = var.deletion_protection
}

module "consul" {
  source          = "../hosts"
  cluster         = var.name
  role            = "consul"
  image_id        = var.image_id
  instance_types  = [var.consul.type]
  subnets         = module.network.private_subnets
  security_groups = [module.firewall.groups["member"], module.firewall.groups["consul"]]
  minimum         = var.consul.servers
  maximum         = var.consul.servers
  healthy_percent = floor(100 * (var.consul.servers - 1) / var.consul.servers) # one at a time: the others are a majority
  root_device     = var.root_device
  kms_key_id      = var.kms_key_id
  parameters      = local.parameters
  settings        = local.settings
}

module "gateways" {
  source          = "../hosts"
  cluster         = var.name
  role            = "gateway"
  image_id        = var.image_id
  instance_types  = [var.gateways.type]
  subnets         = module.network.private_subnets
  security_groups = [module.firewall.groups["member"], module.firewall.groups["gateway"]]
  minimum         = var.gateways.count
  maximum         = var.gateways.count + 1
  target_groups   = [module.entrance.target_group]
  root_device     = var.root_device
  kms_key_id      = var.kms_key_id
  parameters      = local.parameters
  settings        = local.settings

  # They know the load, and say how many workers there are to be (`shoal cloud scale`).
  statements = [
    {
      actions   = ["autoscaling:SetDesiredCapacity"]
      resources = [local.workers_arn]
    },
    {
      actions   = ["autoscaling:DescribeAutoScalingGroups", "cloudwatch:GetMetricStatistics"]
      resources = ["*"]
    },
    {
      actions   = ["cloudwatch:PutMetricData"]
      resources = ["*"]
      condition = { StringEquals = { "cloudwatch:namespace" = local.namespace } }
    },
  ]
}

module "workers" {
  source          = "../hosts"
  cluster         = var.name
  role            = "worker"
  image_id        = var.image_id
  instance_types  = var.workers.types
  subnets         = module.network.private_subnets
  security_groups = [module.firewall.groups["member"], module.firewall.groups["worker"]]
  minimum         = var.workers.minimum
  maximum         = var.workers.maximum
  on_demand       = var.workers.on_demand
  spot_percent    = var.workers.spot_percent
  disk_gib        = var.workers.disk_gib
  root_device     = var.root_device
  kms_key_id      = var.kms_key_id
  parameters      = local.parameters
  settings        = local.settings
}
