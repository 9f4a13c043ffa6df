# A cluster that survives the loss of a machine or a zone, and most of whose workers are spot instances.

terraform {
  required_version = ">= 1.10"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.25"
    }
  }

  # terraform init -backend-config=bucket=YOUR-BUCKET -backend-config=region=YOUR-REGION
  backend "s3" {
    key          = "shoal/production.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { shoal-cluster = var.name }
  }
}

module "cluster" {
  source   = "../../modules/cluster"
  name     = var.name
  image_id = var.image_id
  domain   = var.domain
  zone_id  = var.zone_id
  models   = [] # published with `shoal models add`

  zones        = 3
  nat_per_zone = true
  consul       = { servers = 3 }
  gateways     = { count = 3 }
  workers      = var.workers
  client_cidrs = var.client_cidrs
  kms_key_id   = aws_kms_key.shoal.arn
  alarm_topics = [aws_sns_topic.alarms.arn]
}

data "aws_caller_identity" "here" {}

# One key for disks, parameters, logs and alarms. Who may use it is said by the roles' policies; who may use it for what
# AWS does itself is said here.
resource "aws_kms_key" "shoal" {
  description             = "Shoal ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Account"
        Effect    = "Allow"
        Principal = { AWS = "arn:aws:iam::${data.aws_caller_identity.here.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "Disks"
        Effect    = "Allow"
        Principal = { AWS = "arn:aws:iam::${data.aws_caller_identity.here.account_id}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling" }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey", "kms:CreateGrant"]
        Resource  = "*"
      },
      {
        Sid       = "LogsAndAlarms"
        Effect    = "Allow"
        Principal = { Service = ["logs.${var.region}.amazonaws.com", "cloudwatch.amazonaws.com"] }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
      },
    ]
  })
}

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = aws_kms_key.shoal.id
}
