# What the functions say of each call's streams (`result` in their log lines), as metrics.

locals {
  from_functions = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=~\"^${var.prefix}-(fetch-page|forward-batch)$\""
  gap            = "${local.from_functions} AND severity=ERROR AND jsonPayload.message:\": a gap: \""
}

resource "google_logging_metric" "lag" {
  name            = "${var.prefix}/lag_seconds"
  description     = "How far a stream is behind Sophos, of streams that brought something"
  filter          = "${local.from_functions} AND jsonPayload.result.lag_seconds>=0"
  value_extractor = "EXTRACT(jsonPayload.result.lag_seconds)"

  label_extractors = {
    integration = "EXTRACT(jsonPayload.result.integration)"
    stream      = "EXTRACT(jsonPayload.result.stream)"
  }

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "s"

    labels {
      key        = "integration"
      value_type = "STRING"
    }

    labels {
      key        = "stream"
      value_type = "STRING"
    }
  }

  bucket_options {
    exponential_buckets {
      num_finite_buckets = 20
      growth_factor      = 2
      scale              = 1
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_logging_metric" "failures" {
  name        = "${var.prefix}/failures"
  description = "Calls of a stream that failed or was paused, by why"
  filter      = "${local.from_functions} AND jsonPayload.result.outcome=(\"failed\" OR \"engine_unavailable\" OR \"paused\")"

  label_extractors = {
    integration = "EXTRACT(jsonPayload.result.integration)"
    outcome     = "EXTRACT(jsonPayload.result.outcome)"
    code        = "EXTRACT(jsonPayload.result.code)"
  }

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"

    labels {
      key        = "integration"
      value_type = "STRING"
    }

    labels {
      key        = "outcome"
      value_type = "STRING"
    }

    labels {
      key        = "code"
      value_type = "STRING"
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_logging_metric" "gaps" {
  name        = "${var.prefix}/gaps"
  description = "Intervals that can no longer be fetched"
  filter      = local.gap

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
  }

  depends_on = [google_project_service.this]
}

resource "google_logging_metric" "acked" {
  name            = "${var.prefix}/acked"
  description     = "Events that the engine acknowledged"
  filter          = "${local.from_functions} AND jsonPayload.result.acked>0"
  value_extractor = "EXTRACT(jsonPayload.result.acked)"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
  }

  depends_on = [google_project_service.this]
}
