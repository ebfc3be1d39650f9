# The clock. It delivers at least once; doubles fold in the queue, and overlapping calls are harmless.

resource "google_cloud_scheduler_job" "fetch" {
  name             = "${var.prefix}-fetch"
  description      = "A tick: fetch-page asks for one call a stream"
  schedule         = var.schedule
  time_zone        = "Etc/UTC"
  attempt_deadline = "${var.timeout_seconds + 10}s"

  retry_config {
    retry_count          = 2
    min_backoff_duration = "5s"
    max_backoff_duration = "20s"
  }

  http_target {
    uri         = local.urls["fetch-page"]
    http_method = "POST"
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode("{}")

    oidc_token {
      service_account_email = google_service_account.caller["scheduler"].email
      audience              = local.urls["fetch-page"]
    }
  }

  depends_on = [google_cloud_run_service_iam_member.caller]
}

# What no event woke: after an outage of the engine, or a lost message.
resource "google_cloud_scheduler_job" "sweep" {
  count            = local.forwards ? 1 : 0
  name             = "${var.prefix}-sweep"
  description      = "Forwards whatever waits"
  schedule         = "*/2 * * * *"
  time_zone        = "Etc/UTC"
  attempt_deadline = "${var.timeout_seconds + 10}s"

  # The next sweep is the next try.
  retry_config {
    retry_count = 0
  }

  http_target {
    uri         = local.urls["forward-batch"]
    http_method = "POST"
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode("{}")

    oidc_token {
      service_account_email = google_service_account.caller["scheduler"].email
      audience              = local.urls["forward-batch"]
    }
  }

  depends_on = [google_cloud_run_service_iam_member.caller]
}
