mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-test-1a", "eu-test-1b", "eu-test-1c"] }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-test-1:123456789012:key/k" }
  }
}

variables {
  image_id = "ami-0123456789abcdef0"
  domain   = "shoal.example.org"
  zone_id  = "Z1"
}

run "it_applies" {
  assert {
    condition     = output.cluster.groups == { consul = "production-consul", gateway = "production-gateway", worker = "production-worker" }
    error_message = "Three groups."
  }
  assert {
    condition     = aws_kms_key.shoal.enable_key_rotation && aws_sns_topic.alarms.kms_master_key_id == aws_kms_key.shoal.id
    error_message = "One key, which is rotated, encrypts the alarms as well."
  }
  assert {
    condition     = [for statement in jsondecode(aws_kms_key.shoal.policy).Statement : statement.Sid] == ["Account", "Disks", "LogsAndAlarms"]
    error_message = "The key serves disks, logs and alarms."
  }
}

run "other_workers" {
  variables {
    workers = { types = ["p4d.24xlarge"], minimum = 1, maximum = 2 }
  }
  assert {
    condition     = output.cluster.parameters == "/shoal/production"
    error_message = "Workers are chosen without a change of the module."
  }
}
