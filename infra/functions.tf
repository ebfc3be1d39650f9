locals {
  # Hybrid sites forward by themselves.
  forwards  = var.relay_address != null
  functions = toset(local.forwards ? ["fetch-page", "forward-batch", "test-connection"] : ["fetch-page", "test-connection"])
  names     = { for each in local.functions : each => "${var.prefix}-${each}" }

  # The address that a Cloud Run service has by rule, so that the configuration can name it before it exists.
  urls = { for each in local.functions : each => "https://${local.names[each]}-${data.google_project.this.number}.${var.region}.run.app" }

  calls = concat(
    [
      { caller = "scheduler", function = "fetch-page" },
      { caller = "tasks", function = "fetch-page" },
    ],
    local.forwards ? [
      { caller = "scheduler", function = "forward-batch" },
      { caller = "events", function = "forward-batch" },
    ] : [],
  )

  relay_network = {
    connector = try(var.relay_network.connector, null)
    egress    = try(var.relay_network.all_traffic, false) ? "ALL_TRAFFIC" : "PRIVATE_RANGES_ONLY"
  }
  call_relay = local.forwards && var.relay_network != null ? ["forward-batch", "test-connection"] : []

  concurrency = 8
  memory      = { "fetch-page" = "1Gi", "forward-batch" = "1Gi", "test-connection" = "512Mi" }
}

# `make archives` writes them. An archive is named by its hash: only what has changed is deployed anew.
resource "google_storage_bucket_object" "archive" {
  for_each = local.functions
  bucket   = google_storage_bucket.archives.name
  name     = "${each.key}-${filesha256("${path.module}/../build/functions/${replace(each.key, "-", "_")}.zip")}.zip"
  source   = "${path.module}/../build/functions/${replace(each.key, "-", "_")}.zip"
}

resource "google_cloudfunctions2_function" "this" {
  # checkov:skip=CKV_GCP_124:Only test-connection is reached from outside, by those whom IAM lets; see ingress_settings.
  # checkov:skip=CKV2_GCP_10:That is of functions of the first generation; these have HTTPS only.
  for_each = local.functions
  name     = local.names[each.key]
  location = var.region

  build_config {
    runtime         = "python312"
    entry_point     = replace(each.key, "-", "_")
    service_account = google_service_account.build.id

    source {
      storage_source {
        bucket = google_storage_bucket.archives.name
        object = google_storage_bucket_object.archive[each.key].name
      }
    }
  }

  service_config {
    service_account_email            = google_service_account.function[each.key].email
    available_memory                 = local.memory[each.key]
    available_cpu                    = "1"
    timeout_seconds                  = var.timeout_seconds
    min_instance_count               = each.key == "test-connection" ? 0 : var.min_instances
    max_instance_count               = var.max_instances
    max_instance_request_concurrency = local.concurrency
    all_traffic_on_latest_revision   = true

    # Scheduler, Tasks and Eventarc of this project count as internal. People call test-connection, as IAM lets them.
    ingress_settings = each.key == "test-connection" ? "ALLOW_ALL" : "ALLOW_INTERNAL_ONLY"

    # The two that call the relay.
    vpc_connector                 = contains(local.call_relay, each.key) ? local.relay_network.connector : null
    vpc_connector_egress_settings = contains(local.call_relay, each.key) ? local.relay_network.egress : null

    environment_variables = {
      SOPHOS_UTMSTACK_CONFIG = "/etc/connector/connector.yaml"
      # A call hands over before the platform ends it.
      CLOUD_RUN_TIMEOUT_SECONDS = var.timeout_seconds
      THREADS                   = local.concurrency
      # gunicorn's own files; the home folder cannot be written.
      XDG_RUNTIME_DIR = "/tmp"
    }

    secret_volumes {
      mount_path = "/etc/connector"
      project_id = var.project
      secret     = google_secret_manager_secret.config.secret_id

      versions {
        # By number, so that a changed configuration is a new revision, and can be taken back.
        version = google_secret_manager_secret_version.config.version
        path    = "connector.yaml"
      }
    }
  }

  depends_on = [terraform_data.foundation]
}
