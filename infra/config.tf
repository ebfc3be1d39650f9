# connector.yaml, as the functions read it. What needs no provider is made and tested in connector/.

module "connector" {
  source = "./connector"

  integrations    = var.integrations
  settings        = var.settings
  secrets         = { for name, each in google_secret_manager_secret.sophos : name => each.id }
  store           = "gs://${google_storage_bucket.store.name}"
  schedule        = var.schedule
  timeout_seconds = var.timeout_seconds
  relay_address   = var.relay_address
  relay_token     = one(google_secret_manager_secret.relay_token[*].id)
  relay_ca        = var.relay_ca

  tasks = var.fan_out ? {
    queue           = google_cloud_tasks_queue.fetch.id
    url             = local.urls["fetch-page"]
    service_account = google_service_account.caller["tasks"].email
  } : null
}

resource "google_secret_manager_secret_version" "config" {
  secret      = google_secret_manager_secret.config.id
  secret_data = module.connector.yaml

  lifecycle {
    create_before_destroy = true
  }
}
