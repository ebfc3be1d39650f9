variables {
  store           = "gs://my-soc-project-sophos-store"
  schedule        = "* * * * *"
  timeout_seconds = 120
  integrations    = { acme = { name = "acme" } }
  secrets = {
    acme-client-id          = "projects/p/secrets/sophos-acme-client-id"
    acme-client-secret      = "projects/p/secrets/sophos-acme-client-secret"
    acme-next-client-id     = "projects/p/secrets/sophos-acme-next-client-id"
    acme-next-client-secret = "projects/p/secrets/sophos-acme-next-client-secret"
    beta-client-id          = "projects/p/secrets/sophos-beta-client-id"
    beta-client-secret      = "projects/p/secrets/sophos-beta-client-secret"
  }
}

run "the_least" {
  command = plan

  assert {
    condition = yamldecode(output.yaml) == {
      store  = "gs://my-soc-project-sophos-store"
      every  = "1m"
      access = { platform = "cloud-run" }
      limits = { deadline = "90s" }
      integrations = [{
        name          = "acme"
        client_id     = "$${secret:projects/p/secrets/sophos-acme-client-id/versions/latest}"
        client_secret = "$${secret:projects/p/secrets/sophos-acme-client-secret/versions/latest}"
      }]
    }
    error_message = "got ${output.yaml}"
  }

  assert {
    condition     = output.secrets == toset(["acme-client-id", "acme-client-secret"])
    error_message = "got ${join(", ", output.secrets)}"
  }
}

run "keys_that_are_null_are_left_out_and_two_integrations_may_have_different_keys" {
  command = plan

  variables {
    integrations = {
      acme = { name = "acme", tenants = null, streams = ["events", "endpoints"], next_credential = true }
      beta = { name = "beta", tenants = ["t-1"], calls_per_minute = 40 }
    }
  }

  assert {
    condition     = keys(yamldecode(output.yaml).integrations[0]) == ["client_id", "client_secret", "name", "next_client_id", "next_client_secret", "streams"]
    error_message = "got ${output.yaml}"
  }

  assert {
    condition     = yamldecode(output.yaml).integrations[1].tenants == tolist(["t-1"]) || yamldecode(output.yaml).integrations[1].tenants == ["t-1"]
    error_message = "got ${output.yaml}"
  }

  assert {
    condition     = output.calls_per_minute == 140
    error_message = "got ${output.calls_per_minute}"
  }
}

run "a_relay_and_a_queue" {
  command = plan

  variables {
    relay_address = "relay.example.com:7443"
    relay_token   = "projects/p/secrets/sophos-relay-token"
    relay_ca      = "-----BEGIN CERTIFICATE-----"
    tasks         = { queue = "projects/p/locations/l/queues/q", url = "https://fetch.example.com", service_account = "t@p.iam.gserviceaccount.com" }
    settings      = { observe = true, limits = { ack_timeout = "60s" } }
  }

  assert {
    condition     = yamldecode(output.yaml).engine == "grpcs://relay.example.com:7443" && yamldecode(output.yaml).tasks.queue == "projects/p/locations/l/queues/q"
    error_message = "got ${output.yaml}"
  }

  assert {
    condition     = yamldecode(output.yaml).engine_access == { token = "$${secret:projects/p/secrets/sophos-relay-token/versions/latest}", ca = "-----BEGIN CERTIFICATE-----" }
    error_message = "got ${output.yaml}"
  }

  assert {
    condition     = yamldecode(output.yaml).limits == { ack_timeout = "60s", deadline = "90s" } && yamldecode(output.yaml).observe
    error_message = "got ${output.yaml}"
  }
}

run "each_five_minutes" {
  command = plan
  variables {
    schedule = "*/5 * * * *"
  }
  assert {
    condition     = yamldecode(output.yaml).every == "5m"
    error_message = "got ${output.yaml}"
  }
}

run "another_cron_line_stays_one" {
  command = plan
  variables {
    schedule = "7,37 * * * *"
  }
  assert {
    condition     = yamldecode(output.yaml).every == "7,37 * * * *"
    error_message = "got ${output.yaml}"
  }
}

run "an_unknown_key_is_refused" {
  command = plan
  variables {
    integrations = { acme = { name = "acme", streamz = ["events"] } }
  }
  expect_failures = [var.integrations]
}

run "an_unknown_stream_is_refused" {
  command = plan
  variables {
    integrations = { acme = { name = "acme", streams = ["events", "devices"] } }
  }
  expect_failures = [var.integrations]
}

run "an_empty_list_of_tenants_is_refused" {
  command = plan
  variables {
    integrations = { acme = { name = "acme", tenants = [] } }
  }
  expect_failures = [var.integrations]
}

run "a_text_for_a_list_is_refused" {
  command = plan
  variables {
    integrations = { acme = { name = "acme", exclude_types = "family:web_control" } }
  }
  expect_failures = [var.integrations]
}

run "a_duration_without_unit_is_refused" {
  command = plan
  variables {
    integrations = { acme = { name = "acme", lookback = 24 } }
  }
  expect_failures = [var.integrations]
}

run "one_name_twice_is_refused" {
  command = plan
  variables {
    integrations = { acme = { name = "acme" }, beta = { name = "acme" } }
  }
  expect_failures = [var.integrations]
}

run "an_unknown_setting_is_refused" {
  command = plan
  variables {
    settings = { listen = "0.0.0.0:80" }
  }
  expect_failures = [var.settings]
}
