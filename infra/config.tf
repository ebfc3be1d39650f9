# connector.yaml, as the functions read it. It names secrets and holds none.

locals {
  reference = "%s{secret:%s/versions/latest}"

  config = merge(
    {
      store = "gs://${google_storage_bucket.store.name}"
      # The tick's name in tasks is made of it; Scheduler's own line decides when.
      every  = "60s"
      access = { platform = "cloud-run" }
      limits = { deadline = "${var.timeout_seconds - 30}s" }

      integrations = [
        for key, each in var.integrations : {
          name          = each.name
          client_id     = format(local.reference, "$", google_secret_manager_secret.sophos["${key}-client-id"].id)
          client_secret = format(local.reference, "$", google_secret_manager_secret.sophos["${key}-client-secret"].id)
          region        = each.region
          tenants       = each.tenants == null ? "all" : each.tenants
          streams       = each.streams
          reconcile     = each.reconcile
        }
      ]
    },
    var.fan_out ? {
      tasks = {
        queue           = google_cloud_tasks_queue.fetch.id
        url             = local.urls["fetch-page"]
        service_account = google_service_account.caller["tasks"].email
      }
    } : {},
    local.forwards ? {
      engine = "grpcs://${var.relay_address}"
      engine_access = merge(
        { token = format(local.reference, "$", google_secret_manager_secret.relay_token[0].id) },
        var.relay_ca == null ? {} : { ca = var.relay_ca },
      )
    } : {},
  )
}

resource "google_secret_manager_secret_version" "config" {
  secret      = google_secret_manager_secret.config.id
  secret_data = yamlencode(local.config)

  lifecycle {
    create_before_destroy = true
  }
}
