locals {
  channels = [for each in google_monitoring_notification_channel.email : each.id]
  metric   = "logging.googleapis.com/user/${var.prefix}"
  service  = "resource.type = \"cloud_run_revision\""
}

resource "google_monitoring_notification_channel" "email" {
  for_each     = toset(var.alert_emails)
  display_name = each.key
  type         = "email"
  labels       = { email_address = each.key }

  depends_on = [time_sleep.apis]
}

resource "google_monitoring_alert_policy" "lag" {
  display_name          = "${var.prefix}: events are late"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "A stream is behind by more than ${var.lag_minutes} minutes"

    condition_threshold {
      filter          = "${local.service} AND metric.type = \"${local.metric}/lag_seconds\""
      comparison      = "COMPARISON_GT"
      threshold_value = var.lag_minutes * 60
      duration        = "300s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_PERCENTILE_99"
        cross_series_reducer = "REDUCE_MAX"
        group_by_fields      = ["metric.label.integration"]
      }
    }
  }

  documentation {
    content = "Look at the failures' alert first. A catch-up after an outage ends by itself; a credential that others use too is slowed by Sophos."
  }

  depends_on = [time_sleep.metrics]
}

resource "google_monitoring_alert_policy" "failures" {
  display_name          = "${var.prefix}: streams fail"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "Failures for 15 minutes"

    condition_threshold {
      filter          = "${local.service} AND metric.type = \"${local.metric}/failures\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "900s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
        group_by_fields      = ["metric.label.integration", "metric.label.code"]
      }
    }
  }

  documentation {
    content = "The label `code` says why; call test-connection for what to do. Nothing is lost while it lasts, up to 24 hours."
  }

  depends_on = [time_sleep.metrics]
}

resource "google_monitoring_alert_policy" "gaps" {
  display_name          = "${var.prefix}: events are lost or set aside"
  combiner              = "OR"
  notification_channels = local.channels

  conditions {
    display_name = "A gap was written down"

    condition_threshold {
      filter          = "${local.service} AND metric.type = \"${local.metric}/gaps\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  conditions {
    display_name = "Events were set aside"

    condition_threshold {
      filter          = "${local.service} AND metric.type = \"${local.metric}/set_aside\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    content = "`python -m emulator audit` with the bucket as store names a gap's bounds and reason; `dead-letters` lists what was set aside, and why."
  }

  depends_on = [time_sleep.metrics]
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

  depends_on = [time_sleep.apis]
}
