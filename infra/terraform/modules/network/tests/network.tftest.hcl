mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-test-1" }
  }
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-test-1a", "eu-test-1b", "eu-test-1c"] }
  }
}

variables {
  name = "test"
}

run "two_zones_and_one_way_out" {
  command = plan

  assert {
    condition     = aws_vpc.this.cidr_block == "10.80.0.0/16" && aws_vpc.this.enable_dns_hostnames
    error_message = "The network has its addresses, and names."
  }
  assert {
    condition     = [for subnet in aws_subnet.public : subnet.cidr_block] == ["10.80.0.0/20", "10.80.16.0/20"]
    error_message = "Public subnets are in the first half."
  }
  assert {
    condition     = [for subnet in aws_subnet.private : subnet.cidr_block] == ["10.80.128.0/20", "10.80.144.0/20"]
    error_message = "Private subnets are in the second half."
  }
  assert {
    condition     = [for subnet in aws_subnet.private : subnet.availability_zone] == ["eu-test-1a", "eu-test-1b"]
    error_message = "Each zone has one."
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_route.through_nat) == 2
    error_message = "Both zones go out by one NAT gateway."
  }
  assert {
    condition     = aws_vpc_endpoint.s3.service_name == "com.amazonaws.eu-test-1.s3"
    error_message = "S3 is reached without the NAT gateway."
  }
  assert {
    condition     = aws_flow_log.this.traffic_type == "REJECT" && aws_cloudwatch_log_group.flows.retention_in_days == 30
    error_message = "What is refused is logged, for thirty days."
  }
}

run "nothing_uses_the_default_group" {
  assert {
    condition     = aws_default_security_group.none.vpc_id == aws_vpc.this.id
    error_message = "It is emptied of rules."
  }
}

run "a_way_out_in_each_zone" {
  variables {
    zones        = 3
    nat_per_zone = true
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 3
    error_message = "Three NAT gateways."
  }
  assert {
    condition     = alltrue([for zone, way in aws_route.through_nat : way.nat_gateway_id == aws_nat_gateway.this[zone].id])
    error_message = "Each zone uses its own."
  }
  assert {
    condition     = length(output.public_subnets) == 3 && length(output.private_subnets) == 3
    error_message = "Outputs list the subnets."
  }
}

run "the_flow_log_writes_its_own_group_only" {
  assert {
    condition     = jsondecode(aws_iam_role_policy.flows.policy).Statement[0].Resource == "${aws_cloudwatch_log_group.flows.arn}:*"
    error_message = "The role may write elsewhere."
  }
}

run "more_zones_than_the_region_has" {
  command = plan
  variables {
    zones = 4
  }
  expect_failures = [aws_vpc.this]
}

run "no_zone" {
  command = plan
  variables {
    zones = 0
  }
  expect_failures = [var.zones]
}

run "too_small_a_network" {
  command = plan
  variables {
    cidr = "10.80.0.0/25"
  }
  expect_failures = [var.cidr]
}

run "no_network_at_all" {
  command = plan
  variables {
    cidr = "ten"
  }
  expect_failures = [var.cidr]
}
