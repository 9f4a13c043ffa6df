mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-test-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-test-1a", "eu-test-1b", "eu-test-1c"] }
  }
}

variables {
  name     = "test"
  image_id = "ami-0123456789abcdef0"
  domain   = "shoal.example.org"
}

run "with_defaults" {
  assert {
    condition     = output.groups == { consul = "test-consul", gateway = "test-gateway", worker = "test-worker" }
    error_message = "Three groups."
  }
  assert {
    condition     = output.url == "https://shoal.example.org" && output.parameters == "/shoal/test" && strcontains(output.try, output.url)
    error_message = "Outputs say where it is."
  }
  assert {
    condition     = alltrue([for role, command in output.connect : strcontains(command, "Values=${role}") && strcontains(command, "Values=test ")])
    error_message = "Outputs say how to connect."
  }
}

run "alarms" {
  variables {
    alarm_topics = ["arn:aws:sns:eu-test-1:123456789012:alarms"]
    workers      = { maximum = 7 }
  }
  assert {
    condition     = toset([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_name]) == toset(["test-no-gateway", "test-sick-gateway", "test-workers-wanted"])
    error_message = "Three alarms."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["no_gateway"].treat_missing_data == "breaching" && aws_cloudwatch_metric_alarm.this["no_gateway"].threshold == 1
    error_message = "Silence of the load balancer is an alarm."
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["workers_wanted"].threshold == 7 && aws_cloudwatch_metric_alarm.this["workers_wanted"].dimensions == tomap({ Group = "test-worker" })
    error_message = "It is the workers' maximum that is too small."
  }
  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : contains(alarm.alarm_actions, "arn:aws:sns:eu-test-1:123456789012:alarms")])
    error_message = "Somebody hears of them."
  }
}

run "a_name_too_long" {
  command = plan
  variables {
    name = "a-name-that-is-too-long-for-aws"
  }
  expect_failures = [var.name]
}

run "a_name_in_capitals" {
  command = plan
  variables {
    name = "Test"
  }
  expect_failures = [var.name]
}

run "no_domain" {
  command = plan
  variables {
    domain = "https://shoal.example.org"
  }
  expect_failures = [var.domain]
}

run "two_consul_servers" {
  command = plan
  variables {
    consul = { servers = 2 }
  }
  expect_failures = [var.consul]
}

run "no_gateway" {
  command = plan
  variables {
    gateways = { count = 0 }
  }
  expect_failures = [var.gateways]
}

run "fewer_workers_at_most" {
  command = plan
  variables {
    workers = { minimum = 5 }
  }
  expect_failures = [var.workers]
}

run "more_on_demand_than_there_are" {
  command = plan
  variables {
    workers = { on_demand = 5 }
  }
  expect_failures = [var.workers]
}

run "a_target_above_one" {
  command = plan
  variables {
    target = 70
  }
  expect_failures = [var.target]
}
