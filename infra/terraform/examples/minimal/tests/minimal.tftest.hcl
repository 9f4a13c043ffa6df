mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-test-1a", "eu-test-1b"] }
  }
}

variables {
  image_id = "ami-0123456789abcdef0"
  domain   = "shoal.example.org"
}

run "it_applies" {
  assert {
    condition     = output.cluster.groups == { consul = "trial-consul", gateway = "trial-gateway", worker = "trial-worker" }
    error_message = "Three groups."
  }
  assert {
    condition     = output.cluster.url == "https://shoal.example.org"
    error_message = "It says where clients ask."
  }
}
