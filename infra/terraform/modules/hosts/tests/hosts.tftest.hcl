mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-test-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
}

variables {
  cluster         = "test"
  role            = "worker"
  image_id        = "ami-0123456789abcdef0"
  instance_types  = ["g5.xlarge", "g6.xlarge"]
  subnets         = ["subnet-1", "subnet-2"]
  security_groups = ["sg-1"]
  minimum         = 2
  maximum         = 8
  parameters      = "/shoal/test"
  settings        = { models = "lite0" }
}

run "a_safe_machine" {
  assert {
    condition = alltrue([
      aws_launch_template.this.metadata_options[0].http_tokens == "required",
      aws_launch_template.this.metadata_options[0].http_put_response_hop_limit == 1,
    ])
    error_message = "The instance's credentials are given to its own processes that ask twice."
  }
  assert {
    condition     = tobool(aws_launch_template.this.block_device_mappings[0].ebs[0].encrypted)
    error_message = "The disk is encrypted."
  }
  assert {
    condition     = aws_launch_template.this.key_name == null || length(coalesce(aws_launch_template.this.key_name, "none")) > 0
    error_message = "No key pair is named."
  }
}

run "user_data_says_what_it_is_and_no_more" {
  assert {
    condition = jsondecode(regex("(?s)<<'INSTANCE'\n(.*)\nINSTANCE", base64decode(aws_launch_template.this.user_data))[0]) == {
      cluster = "test", role = "worker", region = "eu-test-1", parameters = "/shoal/test", models = "lite0"
    }
    error_message = "User data tells the first boot where things are."
  }
  assert {
    condition     = length(base64decode(aws_launch_template.this.user_data)) < 1024
    error_message = "User data is small: the image has the rest."
  }
  assert {
    condition     = strcontains(base64decode(aws_launch_template.this.user_data), "\numask 022\n")
    error_message = "Services that are not root's can read it."
  }
}

run "the_group" {
  assert {
    condition     = aws_autoscaling_group.this.name == "test-worker" && aws_autoscaling_group.this.min_size == 2 && aws_autoscaling_group.this.max_size == 8
    error_message = "It is named and bounded."
  }
  assert {
    condition     = [for override in aws_autoscaling_group.this.mixed_instances_policy[0].launch_template[0].override : override.instance_type] == ["g5.xlarge", "g6.xlarge"]
    error_message = "The types are in order."
  }
  assert {
    condition     = aws_autoscaling_group.this.health_check_type == "EC2" && !aws_autoscaling_group.this.capacity_rebalance
    error_message = "Without a load balancer EC2 says what is healthy; without spot nothing is rebalanced."
  }
  assert {
    condition     = { for tag in aws_autoscaling_group.this.tag : tag.key => tag.value if tag.propagate_at_launch } == { Name = "test-worker", shoal-cluster = "test", shoal-role = "worker" }
    error_message = "Consul finds its servers by these."
  }
}

run "it_waits_until_useful_and_until_drained" {
  assert {
    condition = {
      for hook in aws_autoscaling_group.this.initial_lifecycle_hook : hook.name => "${hook.lifecycle_transition} ${hook.default_result} ${hook.heartbeat_timeout}"
      } == {
      useful  = "autoscaling:EC2_INSTANCE_LAUNCHING ABANDON 900"
      drained = "autoscaling:EC2_INSTANCE_TERMINATING CONTINUE 300"
    }
    error_message = "One that never becomes useful is given up; one that does not answer goes."
  }
}

run "the_role_may_little" {
  assert {
    condition     = jsondecode(aws_iam_role.this.assume_role_policy).Statement[0].Principal == { Service = "ec2.amazonaws.com" }
    error_message = "Only instances have it."
  }
  assert {
    condition = {
      for statement in jsondecode(aws_iam_role_policy.this.policy).Statement : join(",", statement.Action) => statement.Resource
      } == {
      "ssm:GetParametersByPath" = [
        "arn:aws:ssm:eu-test-1:123456789012:parameter/shoal/test/common",
        "arn:aws:ssm:eu-test-1:123456789012:parameter/shoal/test/worker",
      ]
      "autoscaling:CompleteLifecycleAction,autoscaling:RecordLifecycleActionHeartbeat" = [
        "arn:aws:autoscaling:eu-test-1:123456789012:autoScalingGroup:*:autoScalingGroupName/test-worker",
      ]
      "ec2:DescribeInstances" = ["*"]
      "ssm:UpdateInstanceInformation,ssmmessages:CreateControlChannel,ssmmessages:CreateDataChannel,ssmmessages:OpenControlChannel,ssmmessages:OpenDataChannel" = [
        "*",
      ]
    }
    error_message = "It reads its own secrets, answers its own hooks, finds Consul's servers, and takes shells."
  }
}

run "spot" {
  variables {
    on_demand    = 2
    spot_percent = 75
  }
  assert {
    condition = alltrue([
      aws_autoscaling_group.this.mixed_instances_policy[0].instances_distribution[0].on_demand_base_capacity == 2,
      aws_autoscaling_group.this.mixed_instances_policy[0].instances_distribution[0].on_demand_percentage_above_base_capacity == 25,
      aws_autoscaling_group.this.capacity_rebalance,
    ])
    error_message = "Two are on demand, and a quarter of the others."
  }
}

run "behind_a_load_balancer_and_with_more_rights_and_an_own_key" {
  variables {
    role          = "gateway"
    target_groups = ["arn:target"]
    kms_key_id    = "arn:aws:kms:eu-test-1:123456789012:key/k"
    statements    = [{ actions = ["a:B"], resources = ["*"], condition = { StringEquals = { "c:d" = "e" } } }]
  }
  assert {
    condition     = aws_autoscaling_group.this.health_check_type == "ELB"
    error_message = "What the load balancer does not reach is replaced."
  }
  assert {
    condition = slice(jsondecode(aws_iam_role_policy.this.policy).Statement, 4, 6) == [
      { Action = ["kms:Decrypt"], Effect = "Allow", Resource = ["arn:aws:kms:eu-test-1:123456789012:key/k"] },
      { Action = ["a:B"], Condition = { StringEquals = { "c:d" = "e" } }, Effect = "Allow", Resource = ["*"] },
    ]
    error_message = "The key may be used, and the statement is added with its condition."
  }
  assert {
    condition     = aws_launch_template.this.block_device_mappings[0].ebs[0].kms_key_id == "arn:aws:kms:eu-test-1:123456789012:key/k"
    error_message = "The disk has the key."
  }
}

run "an_unknown_role" {
  command = plan
  variables {
    role = "frontend"
  }
  expect_failures = [var.role]
}

run "no_image" {
  command = plan
  variables {
    image_id = "latest"
  }
  expect_failures = [var.image_id]
}

run "no_type" {
  command = plan
  variables {
    instance_types = []
  }
  expect_failures = [var.instance_types]
}

run "fewer_at_most_than_at_least" {
  command = plan
  variables {
    maximum = 1
  }
  expect_failures = [var.maximum]
}

run "more_than_all_on_spot" {
  command = plan
  variables {
    spot_percent = 101
  }
  expect_failures = [var.spot_percent]
}

run "a_drain_without_time" {
  command = plan
  variables {
    drain_seconds = 5
  }
  expect_failures = [var.drain_seconds]
}

run "a_secret_in_user_data" {
  command = plan
  variables {
    settings = { ticket_key = "-----BEGIN PRIVATE KEY-----" }
  }
  expect_failures = [var.settings]
}

run "a_setting_that_is_ours" {
  command = plan
  variables {
    settings = { role = "gateway" }
  }
  expect_failures = [var.settings]
}

run "secrets_from_anywhere" {
  command = plan
  variables {
    parameters = "/"
  }
  expect_failures = [var.parameters]
}
