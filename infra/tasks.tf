# One call of fetch-page a stream and tick.

resource "google_cloud_tasks_queue" "fetch" {
  name     = "${var.prefix}-fetch"
  location = var.region

  rate_limits {
    max_dispatches_per_second = 50
    # As many as all instances take at once.
    max_concurrent_dispatches = var.max_instances * local.concurrency
  }

  # A stream that fails is asked at the next tick anyway.
  retry_config {
    max_attempts = 3
    min_backoff  = "5s"
    max_backoff  = "30s"
  }

  depends_on = [google_project_service.this]
}
