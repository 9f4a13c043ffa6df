# The smallest cluster for a trial: one Consul server, one gateway, one GPU worker, in one region's two zones.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.25"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { shoal-cluster = "trial" }
  }
}

module "cluster" {
  source   = "../../modules/cluster"
  name     = "trial"
  image_id = var.image_id
  domain   = var.domain

  consul              = { servers = 1 }
  gateways            = { count = 1, type = "t3.medium" }
  workers             = { maximum = 1 }
  deletion_protection = false
}

variable "region" {
  description = "The AWS region."
  type        = string
  default     = "eu-central-1"
}

variable "image_id" {
  description = "The image that Packer built."
  type        = string
}

variable "domain" {
  description = "The public name of the cluster."
  type        = string
}

output "cluster" {
  description = "Address, groups, and how to try it and to connect."
  value       = module.cluster
}
