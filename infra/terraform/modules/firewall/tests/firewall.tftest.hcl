mock_provider "aws" {}

variables {
  name         = "test"
  network_id   = "vpc-1"
  client_cidrs = ["203.0.113.0/24"]
}

run "from_outside_only_to_the_load_balancer" {
  assert {
    condition     = keys(aws_security_group_rule.enters) == ["clients"]
    error_message = "Somebody else enters."
  }
  assert {
    condition = alltrue([
      aws_security_group_rule.enters["clients"].security_group_id == aws_security_group.this["entrance"].id,
      aws_security_group_rule.enters["clients"].from_port == 443,
      aws_security_group_rule.enters["clients"].to_port == 443,
      aws_security_group_rule.enters["clients"].cidr_blocks == tolist(["203.0.113.0/24"]),
    ])
    error_message = "Clients reach 443 of the load balancer, from their networks."
  }
}

run "each_flow_is_open_at_both_ends_and_one_port_wide" {
  assert {
    condition = alltrue([for name, flow in local.flows : alltrue([
      aws_security_group_rule.arrives[name].type == "ingress",
      aws_security_group_rule.arrives[name].security_group_id == aws_security_group.this[flow.to].id,
      aws_security_group_rule.arrives[name].source_security_group_id == aws_security_group.this[flow.from].id,
      aws_security_group_rule.leaves[name].type == "egress",
      aws_security_group_rule.leaves[name].security_group_id == aws_security_group.this[flow.from].id,
      aws_security_group_rule.leaves[name].source_security_group_id == aws_security_group.this[flow.to].id,
      aws_security_group_rule.arrives[name].from_port == aws_security_group_rule.arrives[name].to_port,
      aws_security_group_rule.leaves[name].from_port == aws_security_group_rule.leaves[name].to_port,
      aws_security_group_rule.arrives[name].protocol == aws_security_group_rule.leaves[name].protocol,
    ])])
    error_message = "A flow is wider than a port, or open at one end."
  }
  assert {
    condition = toset([for flow in local.flows : "${flow.from}>${flow.to} ${flow.protocol} ${flow.port}"]) == toset([
      "entrance>gateway tcp 443", "gateway>worker tcp 8602", "gateway>gateway tcp 8080", "gateway>gateway tcp 8081",
      "member>member tcp 8301", "member>member udp 8301", "member>consul tcp 8300",
    ])
    error_message = "This is the whole list of who speaks to whom."
  }
}

run "out_only_by_https" {
  assert {
    condition     = aws_security_group_rule.https.type == "egress" && aws_security_group_rule.https.from_port == 443 && aws_security_group_rule.https.to_port == 443
    error_message = "Machines reach the internet on 443."
  }
  assert {
    condition     = aws_security_group_rule.https.security_group_id == aws_security_group.this["member"].id
    error_message = "Machines do, the load balancer does not."
  }
}

run "no_ssh_no_consul_interface" {
  assert {
    condition = !anytrue([for port in [22, 8500, 8501, 6379, 8601] : anytrue(concat(
      [for rule in aws_security_group_rule.arrives : rule.from_port <= port && port <= rule.to_port],
      [for rule in aws_security_group_rule.enters : rule.from_port <= port && port <= rule.to_port],
    ))])
    error_message = "A port is open that nobody needs from another machine."
  }
}

run "prometheus_from_its_network" {
  variables {
    monitoring_cidrs = ["10.9.0.0/24"]
    ports            = { gateway = 9001, worker = 9002 }
  }
  assert {
    condition = {
      for name, rule in aws_security_group_rule.enters : name => rule.from_port if name != "clients"
    } == { gateway_metrics = 9001, worker_metrics = 9002, node_metrics = 9100 }
    error_message = "Prometheus reads the internal listeners and the node exporter."
  }
  assert {
    condition     = aws_security_group_rule.arrives["images"].from_port == 9002 && aws_security_group_rule.arrives["where"].from_port == 9001
    error_message = "Ports are those of the internal listeners."
  }
}

run "clients_from_nowhere" {
  command = plan
  variables {
    client_cidrs = []
  }
  expect_failures = [var.client_cidrs]
}

run "clients_from_a_name" {
  command = plan
  variables {
    client_cidrs = ["example.org"]
  }
  expect_failures = [var.client_cidrs]
}

run "metrics_for_the_world" {
  command = plan
  variables {
    monitoring_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.monitoring_cidrs]
}
