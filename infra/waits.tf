# What Google Cloud needs time for. Each wait happens once, and again when what it waits for changes.

# A new API answers some seconds after it is enabled.
resource "time_sleep" "apis" {
  create_duration = "60s"
  triggers        = { apis = join(",", keys(google_project_service.this)) }
}

# A permission is there after about two minutes; a function that mounts a secret too early is not deployed.
resource "time_sleep" "bindings" {
  create_duration = "120s"
  triggers        = { secrets = join(",", local.sophos_secrets), forwards = local.forwards }

  depends_on = [
    google_project_iam_member.build,
    google_project_iam_member.build_sources,
    google_project_iam_member.eventarc,
    google_secret_manager_secret_iam_member.config,
    google_secret_manager_secret_iam_member.relay_token,
    google_secret_manager_secret_iam_member.sophos,
    google_storage_bucket_iam_member.archives,
    google_storage_bucket_iam_member.store,
    google_storage_bucket_iam_member.test_connection,
  ]
}

# Cloud Monitoring knows a metric of Cloud Logging after up to ten minutes, and refuses an alert on it until then.
resource "time_sleep" "metrics" {
  create_duration = "10m"

  triggers = {
    metrics = join(",", [
      google_logging_metric.failures.name,
      google_logging_metric.gaps.name,
      google_logging_metric.lag.name,
      google_logging_metric.set_aside.name,
    ])
  }
}
