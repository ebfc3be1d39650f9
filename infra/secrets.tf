# Secret Manager holds the values; they are put there by hand (docs/hosting.md), so that no state file has them.

locals {
  sophos_secrets = module.connector.secrets
}

resource "google_secret_manager_secret" "sophos" {
  for_each  = local.sophos_secrets
  secret_id = "${var.prefix}-${each.key}"

  replication {
    user_managed {
      replicas {
        location = var.region

        dynamic "customer_managed_encryption" {
          for_each = var.kms_key == null ? [] : [var.kms_key]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }

  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.secrets]
}

resource "google_secret_manager_secret" "relay_token" {
  count     = local.forwards ? 1 : 0
  secret_id = "${var.prefix}-relay-token"

  replication {
    user_managed {
      replicas {
        location = var.region

        dynamic "customer_managed_encryption" {
          for_each = var.kms_key == null ? [] : [var.kms_key]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }

  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.secrets]
}

# Not a secret, but mounted as one: functions have no other files.
resource "google_secret_manager_secret" "config" {
  secret_id = "${var.prefix}-connector-yaml"

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }

  depends_on = [google_project_service.this]
}

# Secret Manager's own account; docs/hosting.md says how a project gets it.
resource "google_kms_crypto_key_iam_member" "secrets" {
  count         = var.kms_key == null ? 0 : 1
  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
}
