# Equal machines that replace each other: an auto-scaling group, its launch template, and the role its instances have.
#
# Two lifecycle hooks make the group wait. An instance that starts counts when it says that it is useful, and is given up
# when it never does; one that is to go has drained before it is terminated. `shoal cloud lifecycle` on the instance
# answers both, and follows the notice of a spot interruption.

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
  name      = "${var.cluster}-${var.role}"
  arn       = "arn:aws:%s:${data.aws_region.here.id}:${data.aws_caller_identity.here.account_id}:%s"
  group_arn = format(local.arn, "autoscaling", "autoScalingGroup:*:autoScalingGroupName/${local.name}")

  # What the first boot needs to know. User data can be read by whatever runs on the instance, and is in the state: so it
  # says where secrets are, and never what they are.
  instance = merge(var.settings, {
    cluster    = var.cluster
    role       = var.role
    region     = data.aws_region.here.id
    parameters = var.parameters
  })

  statements = concat([
    {
      Effect   = "Allow"
      Action   = ["ssm:GetParametersByPath"]
      Resource = [for part in ["common", var.role] : format(local.arn, "ssm", "parameter${var.parameters}/${part}")]
    },
    {
      Effect   = "Allow"
      Action   = ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"]
      Resource = [local.group_arn]
    },
    {
      Effect   = "Allow"
      Action   = ["ec2:DescribeInstances"] # Consul finds its servers by their tag
      Resource = ["*"]
    },
    # Shells by Session Manager: no port for SSH is open, and no key is kept. Not AWS's managed policy for it, which may
    # read every parameter of the account.
    {
      Effect = "Allow"
      Action = [
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
      ]
      Resource = ["*"]
    },
    ],
    var.kms_key_id == null ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt"], Resource = [var.kms_key_id] }],
    [for statement in var.statements : {
      Effect    = "Allow"
      Action    = statement.actions
      Resource  = statement.resources
      Condition = statement.condition
    }],
  )
}

resource "aws_iam_role" "this" {
  name = local.name
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  #checkov:skip=CKV_AWS_355:Describing instances, groups and metrics cannot be limited to some; it reads, and changes nothing.
  name = "shoal"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [for statement in local.statements : { for key, value in statement : key => value if value != null }]
  })
}

resource "aws_iam_instance_profile" "this" {
  name = local.name
  role = aws_iam_role.this.name
}

resource "aws_launch_template" "this" {
  name                   = local.name
  image_id               = var.image_id
  instance_type          = var.instance_types[0]
  update_default_version = true
  vpc_security_group_ids = var.security_groups
  user_data = base64encode(templatefile("${path.module}/user_data.sh", {
    instance = jsonencode(local.instance)
  }))

  iam_instance_profile {
    arn = aws_iam_instance_profile.this.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = var.root_device

    ebs {
      volume_size           = var.disk_gib
      volume_type           = "gp3"
      encrypted             = true
      kms_key_id            = var.kms_key_id
      delete_on_termination = true
    }
  }

  monitoring {
    enabled = true
  }

  tag_specifications {
    resource_type = "volume"
    tags          = { Name = local.name, shoal-cluster = var.cluster }
  }
}

resource "aws_autoscaling_group" "this" {
  name                      = local.name
  vpc_zone_identifier       = var.subnets
  min_size                  = var.minimum
  max_size                  = var.maximum
  target_group_arns         = var.target_groups
  health_check_type         = length(var.target_groups) > 0 ? "ELB" : "EC2"
  health_check_grace_period = var.launch_seconds
  capacity_rebalance        = var.spot_percent > 0
  wait_for_capacity_timeout = "30m"
  enabled_metrics           = ["GroupDesiredCapacity", "GroupInServiceInstances", "GroupMaxSize"]

  mixed_instances_policy {
    instances_distribution {
      on_demand_base_capacity                  = var.on_demand
      on_demand_percentage_above_base_capacity = 100 - var.spot_percent
      spot_allocation_strategy                 = "capacity-optimized"
    }

    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.this.id
        version            = aws_launch_template.this.latest_version
      }

      dynamic "override" {
        for_each = var.instance_types
        content {
          instance_type = override.value
        }
      }
    }
  }

  initial_lifecycle_hook {
    name                 = "useful"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    heartbeat_timeout    = var.launch_seconds
    default_result       = "ABANDON"
  }

  initial_lifecycle_hook {
    name                 = "drained"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING"
    heartbeat_timeout    = var.drain_seconds
    default_result       = "CONTINUE"
  }

  # A new image replaces one machine after the other, each when its successor is useful.
  instance_refresh {
    strategy = "Rolling"

    preferences {
      min_healthy_percentage = var.healthy_percent
    }
  }

  dynamic "tag" {
    for_each = { Name = local.name, shoal-cluster = var.cluster, shoal-role = var.role }
    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  # It goes last, so that an instance which drains while all is destroyed may still say so.
  depends_on = [aws_iam_role_policy.this]
}
