locals {
  channels = [for each in google_monitoring_notification_channel.email : each.id]
  metric   = "logging.googleapis.com/user/${var.prefix}"
  service  = "resource.type = \"cloud_run_revision\""

  # As PromQL names log-based metrics, which may be of several types of resource.
  promql = "logging_googleapis_com:user_${replace(var.prefix, "-", "_")}"
  on_run = "monitored_resource=\"cloud_run_revision\""
}

resource "google_monitoring_notification_channel" "email" {
  for_each     = toset(var.alert_emails)
  display_name = each.key
  type         = "email"
  labels       = { email_address = each.key }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "lag" {
  display_name          = "${var.prefix}: events are late"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "A stream is behind by more than ${var.lag_minutes} minutes"

    condition_prometheus_query_language {
      query               = "histogram_quantile(0.99, sum by (integration, le) (increase(${local.promql}_lag_seconds_bucket{${local.on_run}}[5m]))) > ${var.lag_minutes * 60}"
      duration            = "300s"
      evaluation_interval = "60s"
      # Cloud Monitoring knows a new metric after up to ten minutes.
      disable_metric_validation = true
    }
  }

  documentation {
    content = "Look at the failures' alert first. A catch-up after an outage ends by itself; a credential that others use too is slowed by Sophos."
  }

  depends_on = [google_logging_metric.lag]
}

resource "google_monitoring_alert_policy" "failures" {
  display_name          = "${var.prefix}: streams fail or are paused"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "Failures, or a pause, for 15 minutes"

    condition_prometheus_query_language {
      query               = "sum by (integration, outcome, code) (increase(${local.promql}_failures{${local.on_run}}[5m])) > 0"
      duration            = "900s"
      evaluation_interval = "60s"
      # Cloud Monitoring knows a new metric after up to ten minutes.
      disable_metric_validation = true
    }
  }

  documentation {
    content = "The label `code` says why; call test-connection for what to do. Nothing is lost while it lasts, up to 24 hours. Outcome `paused`: somebody paused the integration, or batches wait up to the limit, since nothing delivers them."
  }

  depends_on = [google_logging_metric.failures]
}

# One line is enough for these two, so they watch the log itself: a rate needs more than one.

resource "google_monitoring_alert_policy" "gaps" {
  display_name          = "${var.prefix}: events are lost"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "A gap was written down"

    condition_matched_log {
      filter = local.gap
    }
  }

  alert_strategy {
    notification_rate_limit {
      period = "3600s"
    }
  }

  documentation {
    content = "`sophos-utmstack audit` with the bucket as store names its bounds and its reason."
  }

  depends_on = [google_project_service.this]
}

resource "google_monitoring_alert_policy" "set_aside" {
  display_name          = "${var.prefix}: events became dead letters"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "The engine cannot take an event"

    condition_matched_log {
      filter = "${local.from_functions} AND jsonPayload.result.set_aside>0"
    }
  }

  alert_strategy {
    notification_rate_limit {
      period = "3600s"
    }
  }

  documentation {
    content = "`sophos-utmstack dead-letters` with the bucket as store lists them, with the reason."
  }

  depends_on = [google_project_service.this]
}

# Silence is no success: the clock itself may be gone.
resource "google_monitoring_alert_policy" "silence" {
  display_name          = "${var.prefix}: no ticks"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "fetch-page has answered nothing for 15 minutes"

    condition_absent {
      filter   = "${local.service} AND metric.type = \"run.googleapis.com/request_count\" AND resource.labels.service_name = \"${local.names["fetch-page"]}\" AND metric.labels.response_code_class = \"2xx\""
      duration = "900s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    content = "See the Scheduler job's last result, then fetch-page's log."
  }

  depends_on = [google_project_service.this]
}

# Then batches wait, and nothing says so until they are too many.
resource "google_monitoring_alert_policy" "no_sweeps" {
  count                 = local.forwards ? 1 : 0
  display_name          = "${var.prefix}: no sweeps"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "forward-batch has answered nothing for 15 minutes"

    condition_absent {
      # 5xx is an answer too: the engine is down, which the failures' alert tells. 4xx: the caller is not let in.
      filter   = "${local.service} AND metric.type = \"run.googleapis.com/request_count\" AND resource.labels.service_name = \"${local.names["forward-batch"]}\" AND metric.labels.response_code_class != \"4xx\""
      duration = "900s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    content = "See the last result of the Scheduler job `${var.prefix}-sweep`, then forward-batch's log. Events wait in the bucket meanwhile."
  }

  depends_on = [google_project_service.this]
}
