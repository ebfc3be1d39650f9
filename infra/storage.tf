# The store: cursors, waiting batches, receipts. All that must not be lost lies here.

resource "google_storage_bucket" "store" {
  # checkov:skip=CKV_GCP_62:Access logs cost more than the store; who may read is told by accounts.tf, and audit logs hold it.
  # checkov:skip=CKV_GCP_78:No versions: objects live for seconds, each change is compare-and-set, and old ones would be paid for.
  name     = "${var.project}-${var.prefix}-store"
  location = var.region

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  versioning {
    enabled = false
  }

  # Batches are removed when they are delivered: keeping each for a week would be most of the bill.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  # The connector removes its own objects by its own rules (receipts after 90 days); this is for what an upload left.
  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.this, google_kms_crypto_key_iam_member.storage]
}

# What is deployed.
resource "google_storage_bucket" "archives" {
  # checkov:skip=CKV_GCP_62:It holds what is public in the repository.
  # checkov:skip=CKV_GCP_78:Archives are named by their hash, and never overwritten.
  name     = "${var.project}-${var.prefix}-archives"
  location = var.region

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true

  depends_on = [google_project_service.this]
}

data "google_storage_project_service_account" "this" {
  depends_on = [google_project_service.this]
}

resource "google_kms_crypto_key_iam_member" "storage" {
  count         = var.kms_key == null ? 0 : 1
  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${data.google_storage_project_service_account.this.email_address}"
}
