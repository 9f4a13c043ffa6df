variable "region" {
  description = "The AWS region."
  type        = string
  default     = "eu-central-1"
}

variable "name" {
  description = "Name of the cluster."
  type        = string
  default     = "production"
}

variable "image_id" {
  description = "The image that Packer built."
  type        = string
}

variable "domain" {
  description = "The public name of the cluster."
  type        = string
}

variable "zone_id" {
  description = "Route 53 zone of that name."
  type        = string
}

variable "client_cidrs" {
  description = "Networks that clients come from."
  type        = list(string)
  default     = ["0.0.0.0/0"]
}

variable "workers" {
  description = "The workers: see the module cluster."
  type        = any
  default = {
    types        = ["g5.xlarge", "g6.xlarge", "g4dn.xlarge"]
    minimum      = 2
    maximum      = 20
    on_demand    = 2
    spot_percent = 100
  }
}
