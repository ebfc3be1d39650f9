output "store" {
  description = "The store, as `store:` of a configuration names it: for status and audit from elsewhere, and for hybrid sites."
  value       = "gs://${google_storage_bucket.store.name}"
}

output "urls" {
  description = "Where each function is called."
  value       = local.urls
}

output "secrets_to_fill" {
  description = "The secrets that need a version, put there by `gcloud secrets versions add`."
  value       = concat([for each in google_secret_manager_secret.sophos : each.secret_id], google_secret_manager_secret.relay_token[*].secret_id)
}

output "site_account" {
  description = "The account of a site that forwards by itself; null where the functions forward."
  value       = one(google_service_account.site[*].email)
}

output "subscription" {
  description = "Eventarc's subscription of new batches, whose ack deadline docs/hosting.md raises; null where a site forwards."
  value       = try(google_eventarc_trigger.batches[0].transport[0].pubsub[0].subscription, null)
}

output "dashboard" {
  description = "The dashboard's address."
  value       = "https://console.cloud.google.com/monitoring/dashboards/builder/${reverse(split("/", google_monitoring_dashboard.this.id))[0]}?project=${var.project}"
}
