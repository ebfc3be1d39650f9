terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.20, < 8.0"
    }
  }

  # State holds no secret's value, but names everything: keep it in a bucket of its own (docs/hosting.md).
  # backend "gcs" {}
}

provider "google" {
  project = var.project
  region  = var.region

  default_labels = { app = "sophos-utmstack" }
}

data "google_project" "this" {}
