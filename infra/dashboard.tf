locals {
  charts = [
    {
      # The sum of a distribution: a filter's aligners give its percentiles and its mean only.
      title = "Events acknowledged a minute"
      query = { prometheusQuery = "sum(increase(${local.promql}_acked_sum{${local.on_run}}[1m]))" }
    },
    {
      title = "Lag, seconds (99 of 100)"
      query = {
        timeSeriesFilter = {
          filter      = "metric.type=\"${local.metric}/lag_seconds\" ${local.service}"
          aggregation = { alignmentPeriod = "300s", perSeriesAligner = "ALIGN_PERCENTILE_99", crossSeriesReducer = "REDUCE_MAX", groupByFields = ["metric.label.integration"] }
        }
      }
    },
    {
      title = "Failures by reason"
      query = {
        timeSeriesFilter = {
          filter      = "metric.type=\"${local.metric}/failures\" ${local.service}"
          aggregation = { alignmentPeriod = "300s", perSeriesAligner = "ALIGN_SUM", crossSeriesReducer = "REDUCE_SUM", groupByFields = ["metric.label.outcome", "metric.label.code"] }
        }
      }
    },
    {
      title = "Gaps"
      query = {
        timeSeriesFilter = {
          filter      = "metric.type=\"${local.metric}/gaps\" ${local.service}"
          aggregation = { alignmentPeriod = "3600s", perSeriesAligner = "ALIGN_SUM", crossSeriesReducer = "REDUCE_SUM" }
        }
      }
    },
    {
      title = "Calls by status"
      query = {
        timeSeriesFilter = {
          filter      = "metric.type=\"run.googleapis.com/request_count\" ${local.service} resource.label.service_name=monitoring.regex.full_match(\"${var.prefix}-.*\")"
          aggregation = { alignmentPeriod = "60s", perSeriesAligner = "ALIGN_RATE", crossSeriesReducer = "REDUCE_SUM", groupByFields = ["resource.label.service_name", "metric.label.response_code_class"] }
        }
      }
    },
    {
      title = "Tasks waiting"
      query = {
        timeSeriesFilter = {
          filter      = "metric.type=\"cloudtasks.googleapis.com/queue/depth\" resource.type=\"cloud_tasks_queue\" resource.label.queue_id=\"${google_cloud_tasks_queue.fetch.name}\""
          aggregation = { alignmentPeriod = "60s", perSeriesAligner = "ALIGN_MAX" }
        }
      }
    },
  ]
}

resource "google_monitoring_dashboard" "this" {
  dashboard_json = jsonencode({
    displayName = "${var.prefix}: Sophos Central to UTMStack"
    mosaicLayout = {
      columns = 12
      tiles = [
        for index, chart in local.charts : {
          xPos   = index % 2 * 6
          yPos   = floor(index / 2) * 4
          width  = 6
          height = 4
          widget = {
            title = chart.title
            xyChart = {
              dataSets = [{
                plotType        = "LINE"
                timeSeriesQuery = chart.query
              }]
            }
          }
        }
      ]
    }
  })

  depends_on = [
    google_logging_metric.acked,
    google_logging_metric.failures,
    google_logging_metric.gaps,
    google_logging_metric.lag,
  ]
}
