# One call of fetch-page a stream and tick.

resource "google_cloud_tasks_queue" "fetch" {
  name     = "${var.prefix}-fetch"
  location = var.region

  rate_limits {
    # Twice what the credentials may call, so that a minute's tick is dispatched in half a minute; the queue takes 500.
    max_dispatches_per_second = min(500, max(10, ceil(module.connector.calls_per_minute / 30)))
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

# A call takes about 0.7 s. Fewer instances than all calls need make each tick later than the one before.
check "instances" {
  assert {
    condition     = !var.fan_out || module.connector.calls_per_minute * 0.7 / 60 <= var.max_instances * local.concurrency
    error_message = "max_instances = ${var.max_instances} are too few for ${module.connector.calls_per_minute} calls a minute: set ${ceil(module.connector.calls_per_minute * 0.7 / 60 / local.concurrency)} or more."
  }
}
