# Who runs, who calls, and what each may do: nobody may do more than its work asks for.

resource "google_service_account" "function" {
  for_each     = local.functions
  account_id   = "${var.prefix}-${each.key}"
  display_name = "${each.key}, running"

  depends_on = [google_project_service.this]
}

resource "google_service_account" "caller" {
  for_each     = toset(["scheduler", "tasks", "events"])
  account_id   = "${var.prefix}-${each.key}"
  display_name = "${each.key}, calling functions"

  depends_on = [google_project_service.this]
}

resource "google_service_account" "build" {
  account_id   = "${var.prefix}-build"
  display_name = "Builds the functions' images"

  depends_on = [google_project_service.this]
}

# Beside UTMStack, where forwarding is done there (hybrid).
resource "google_service_account" "site" {
  count        = local.forwards ? 0 : 1
  account_id   = "${var.prefix}-site"
  display_name = "Forwards at the site"

  depends_on = [google_project_service.this]
}

# fetch-page, forward-batch and a site read, make, change and remove objects.
resource "google_storage_bucket_iam_member" "store" {
  for_each = merge(
    { for name, account in google_service_account.function : name => account.email if name != "test-connection" },
    { for index, account in google_service_account.site : "site-${index}" => account.email },
  )

  bucket = google_storage_bucket.store.name
  role   = "roles/storage.objectUser"
  member = "serviceAccount:${each.value}"
}

# test-connection tries that with an object of its own, reads the store's layout and counts its calls to Sophos; it reads
# and writes nothing else.
# Who may not list a bucket is told 403, not 404, of an object that is not there: hence the bucket itself.
resource "google_storage_bucket_iam_member" "test_connection" {
  bucket = google_storage_bucket.store.name
  role   = "roles/storage.objectUser"
  member = google_service_account.function["test-connection"].member

  condition {
    title = "probes and budgets only"
    expression = join(" || ", concat(
      ["resource.type == 'storage.googleapis.com/Bucket'"],
      [for each in [".layout", "probes/", "budgets/"] : "resource.name.startsWith('projects/_/buckets/${google_storage_bucket.store.name}/objects/${each}')"],
    ))
  }
}

resource "google_storage_bucket_iam_member" "archives" {
  bucket = google_storage_bucket.archives.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.build.member
}

resource "google_project_iam_member" "build" {
  for_each = toset(["roles/logging.logWriter", "roles/artifactregistry.writer"])
  project  = var.project
  role     = each.key
  member   = google_service_account.build.member
}

# The trigger's account receives events. Eventarc's own account has its role from Google (docs/hosting.md): were it
# given here, removing this installation would take it from all others in the project.
resource "google_project_iam_member" "events" {
  count   = local.forwards ? 1 : 0
  project = var.project
  role    = "roles/eventarc.eventReceiver"
  member  = google_service_account.caller["events"].member
}

# The build works on Google's own bucket of sources beside ours.
resource "google_project_iam_member" "build_sources" {
  project = var.project
  role    = "roles/storage.objectViewer"
  member  = google_service_account.build.member

  condition {
    title      = "sources of functions only"
    expression = "resource.name.startsWith('projects/_/buckets/gcf-v2-sources-')"
  }
}

resource "google_cloud_run_service_iam_member" "caller" {
  for_each = {
    for each in local.calls : "${each.caller} ${each.function}" => each
  }

  location = var.region
  service  = google_cloudfunctions2_function.this[each.value.function].name
  role     = "roles/run.invoker"
  member   = google_service_account.caller[each.value.caller].member
}

resource "google_cloud_run_service_iam_member" "tester" {
  for_each = toset(var.testers)
  location = var.region
  service  = google_cloudfunctions2_function.this["test-connection"].name
  role     = "roles/run.invoker"
  member   = each.key
}

# fetch-page adds tasks that call it in the name of "tasks".
resource "google_cloud_tasks_queue_iam_member" "fetch_page" {
  name     = google_cloud_tasks_queue.fetch.name
  location = var.region
  role     = "roles/cloudtasks.enqueuer"
  member   = google_service_account.function["fetch-page"].member
}

resource "google_service_account_iam_member" "fetch_page_as_tasks" {
  service_account_id = google_service_account.caller["tasks"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.function["fetch-page"].member
}

resource "google_secret_manager_secret_iam_member" "config" {
  for_each  = local.functions
  secret_id = google_secret_manager_secret.config.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function[each.key].member
}

resource "google_secret_manager_secret_iam_member" "sophos" {
  for_each = {
    for pair in setproduct(keys(google_secret_manager_secret.sophos), ["fetch-page", "test-connection"]) :
    "${pair[0]} ${pair[1]}" => { secret = pair[0], function = pair[1] }
  }

  secret_id = google_secret_manager_secret.sophos[each.value.secret].id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function[each.value.function].member
}

resource "google_secret_manager_secret_iam_member" "relay_token" {
  for_each  = local.forwards ? toset(["forward-batch", "test-connection"]) : []
  secret_id = google_secret_manager_secret.relay_token[0].id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function[each.key].member
}
