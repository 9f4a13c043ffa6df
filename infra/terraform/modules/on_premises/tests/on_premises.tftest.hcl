variables {
  domain = "shoal.example.org"
  machines = {
    one   = { address = "10.0.0.1", roles = ["consul", "gateway"] }
    two   = { address = "10.0.0.2", roles = ["consul", "worker"], variables = { worker_devices = "0,1" } }
    three = { address = "three.example.org", roles = ["consul", "worker"] }
  }
}

run "the_inventory_of_the_playbooks" {
  assert {
    condition = { for group, its in yamldecode(output.inventory).all.children : group => keys(its.hosts) } == {
      consul_servers = ["one", "three", "two"]
      gateways       = ["one"]
      workers        = ["three", "two"]
      generators     = []
    }
    error_message = "Each machine is in the groups of its roles."
  }
  assert {
    condition     = yamldecode(output.inventory).all.children.workers.hosts.two == { ansible_host = "10.0.0.2", worker_devices = "0,1" }
    error_message = "A machine has its address and its variables."
  }
  assert {
    condition     = yamldecode(output.inventory).all.vars == { ansible_user = "root", shoal_domain = "shoal.example.org", shoal_models = ["lite0"] }
    error_message = "All have what is common."
  }
  assert {
    condition     = output.url == "https://shoal.example.org"
    error_message = "It says where clients ask."
  }
}

run "with_variables" {
  variables {
    user      = "admin"
    models    = []
    variables = { shoal_version = "0.1.0" }
  }
  assert {
    condition     = yamldecode(output.inventory).all.vars == { ansible_user = "admin", shoal_domain = "shoal.example.org", shoal_models = [], shoal_version = "0.1.0" }
    error_message = "The playbooks get them."
  }
}

run "an_unknown_role" {
  command = plan
  variables {
    machines = { one = { address = "10.0.0.1", roles = ["consul", "gateway", "worker", "frontend"] } }
  }
  expect_failures = [var.machines]
}

run "a_machine_without_a_role" {
  command = plan
  variables {
    machines = {
      one = { address = "10.0.0.1", roles = ["consul", "gateway", "worker"] }
      two = { address = "10.0.0.2", roles = [] }
    }
  }
  expect_failures = [var.machines]
}

run "two_names_for_one_machine" {
  command = plan
  variables {
    machines = {
      one = { address = "10.0.0.1", roles = ["consul", "gateway"] }
      two = { address = "10.0.0.1", roles = ["worker"] }
    }
  }
  expect_failures = [var.machines]
}

run "two_consul_servers" {
  command = plan
  variables {
    machines = {
      one = { address = "10.0.0.1", roles = ["consul", "gateway"] }
      two = { address = "10.0.0.2", roles = ["consul", "worker"] }
    }
  }
  expect_failures = [var.machines]
}

run "no_worker" {
  command = plan
  variables {
    machines = { one = { address = "10.0.0.1", roles = ["consul", "gateway"] } }
  }
  expect_failures = [var.machines]
}

run "a_name_that_no_certificate_has" {
  command = plan
  variables {
    machines = { One = { address = "10.0.0.1", roles = ["consul", "gateway", "worker"] } }
  }
  expect_failures = [var.machines]
}

run "no_domain" {
  command = plan
  variables {
    domain = "shoal"
  }
  expect_failures = [var.domain]
}
