# A new batch wakes forward-batch.
#
# Eventarc's own storage events know no prefix, and five of six objects (cursors, leases, receipts) would wake it for
# nothing. So the bucket tells a topic of batches only, and Eventarc carries that topic's messages.

resource "google_pubsub_topic" "batches" {
  # checkov:skip=CKV_GCP_83:Messages hold the names of objects, no events and no secrets.
  count = local.forwards ? 1 : 0
  name  = "${var.prefix}-batches"

  depends_on = [google_project_service.this]
}

resource "google_pubsub_topic_iam_member" "storage" {
  count  = local.forwards ? 1 : 0
  topic  = google_pubsub_topic.batches[0].id
  role   = "roles/pubsub.publisher"
  member = "serviceAccount:${data.google_storage_project_service_account.this.email_address}"
}

resource "google_storage_notification" "batches" {
  count              = local.forwards ? 1 : 0
  bucket             = google_storage_bucket.store.name
  topic              = google_pubsub_topic.batches[0].id
  payload_format     = "NONE"
  event_types        = ["OBJECT_FINALIZE"]
  object_name_prefix = "batches/"

  depends_on = [google_pubsub_topic_iam_member.storage]
}

resource "google_eventarc_trigger" "batches" {
  count           = local.forwards ? 1 : 0
  name            = "${var.prefix}-batches"
  location        = var.region
  service_account = google_service_account.caller["events"].email

  matching_criteria {
    attribute = "type"
    value     = "google.cloud.pubsub.topic.v1.messagePublished"
  }

  transport {
    pubsub {
      topic = google_pubsub_topic.batches[0].id
    }
  }

  destination {
    cloud_run_service {
      service = google_cloudfunctions2_function.this["forward-batch"].name
      region  = var.region
    }
  }

  depends_on = [google_cloud_run_service_iam_member.caller]
}
