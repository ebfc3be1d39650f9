# What the rest needs and Google Cloud takes a while to know: APIs, accounts and what they may do, places for secrets.
# It is applied first (docs/hosting.md). While the secrets are filled by hand, it settles: a function that mounts a secret,
# or a build, before its permission is known is refused.

resource "terraform_data" "foundation" {
  depends_on = [
    google_project_iam_member.build,
    google_project_iam_member.build_sources,
    google_project_iam_member.events,
    google_secret_manager_secret_iam_member.config,
    google_secret_manager_secret_iam_member.relay_token,
    google_secret_manager_secret_iam_member.sophos,
    google_storage_bucket_iam_member.archives,
    google_storage_bucket_iam_member.store,
    google_storage_bucket_iam_member.test_connection,
  ]
}
