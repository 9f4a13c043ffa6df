# The image of every machine of a cluster on AWS: Debian, with what the playbooks of infra/ansible install. It is built as a
# cluster of one machine, which must answer a prediction; then everything that is particular to that machine is removed.
#
#   packer init . && packer build -var version=0.1.0 -var wheelhouse=/path/of/wheelhouse -var consul_url=… -var consul_sha256=… .

packer {
  required_version = ">= 1.11"
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "~> 1.3"
    }
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = "~> 1.1"
    }
  }
}

variable "region" {
  type    = string
  default = "eu-central-1"
}

variable "instance_type" {
  type        = string
  description = "With a GPU, so that the driver is installed and tried."
  default     = "g5.xlarge"
}

variable "version" {
  type        = string
  description = "Of Shoal: what wheelhouse.yml has built."
}

variable "wheelhouse" {
  type        = string
  description = "Folder of wheelhouse.yml."
}

variable "consul_url" {
  type        = string
  description = "HashiCorp's zip of Consul, 1.11 or later: it finds servers by their tags."
}

variable "consul_sha256" {
  type = string
}

variable "kms_key_id" {
  type        = string
  description = "Key of the image's disk; empty: AWS's."
  default     = ""
}

data "amazon-ami" "debian" {
  region      = var.region
  owners      = ["136693071363"] # Debian
  most_recent = true
  filters = {
    name                = "debian-12-amd64-*"
    virtualization-type = "hvm"
    root-device-type    = "ebs"
  }
}

source "amazon-ebs" "shoal" {
  region        = var.region
  source_ami    = data.amazon-ami.debian.id
  instance_type = var.instance_type
  ssh_username  = "admin"
  ami_name      = "shoal-${replace(var.version, "+", "-")}-${formatdate("YYYYMMDDhhmmss", timestamp())}"
  encrypt_boot  = true
  kms_key_id    = var.kms_key_id
  imds_support  = "v2.0"
  tags          = { Name = "shoal", version = var.version }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = 20
    volume_type           = "gp3"
    delete_on_termination = true
  }
}

build {
  sources = ["source.amazon-ebs.shoal"]

  provisioner "ansible" {
    playbook_file = "${path.root}/image.yml"
    user          = "admin"
    use_proxy     = false
    groups        = ["consul_servers", "gateways", "workers"]
    ansible_env_vars = [
      "ANSIBLE_CONFIG=${path.root}/../ansible/ansible.cfg",
      "ANSIBLE_ROLES_PATH=${path.root}/../ansible/roles",
      "ANSIBLE_LOOKUP_PLUGINS=${path.root}/../ansible/lookup_plugins",
    ]
    extra_arguments = [
      "--extra-vars", "shoal_version=${var.version}",
      "--extra-vars", "shoal_wheelhouse=${var.wheelhouse}",
      "--extra-vars", "consul_source=archive",
      "--extra-vars", "consul_archive_url=${var.consul_url}",
      "--extra-vars", "consul_archive_sha256=${var.consul_sha256}",
    ]
  }
}
