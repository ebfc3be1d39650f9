# connector.yaml, made of variables alone: no provider, so that `terraform test` runs it as it is.

locals {
  # Every key of an integration, and its form. Client ids and secrets come from Secret Manager;
  # `next_credential` makes places for a second pair of them.
  keys = {
    alerts_data_type    = "text"
    calls_per_minute    = "number"
    data_source         = "text"
    endpoints_data_type = "text"
    exclude_types       = "list"
    inventory           = "text"
    lookback            = "text"
    name                = "text"
    next_credential     = "flag"
    reconcile           = "text"
    region              = "text"
    settle              = "text"
    streams             = "list"
    tenants             = "list or all"
    utmstack_tenant_id  = "text"
  }

  # Keys of the configuration that a hosted installation may set; Terraform makes the others.
  settings = ["archive", "gap_data_type", "heartbeat", "limits", "log", "observe", "sophos"]

  credentials = {
    for key, each in var.integrations : key => concat(
      ["client-id", "client-secret"],
      try(each.next_credential, null) == true ? ["next-client-id", "next-client-secret"] : [],
    )
  }

  # What Sophos allows a credential by default.
  calls_per_minute = sum([for each in values(var.integrations) : coalesce(try(each.calls_per_minute, null), 100)])

  minutes = try(tonumber(regex("^\\*/([0-9]+) \\* \\* \\* \\*$", var.schedule)[0]), var.schedule == "* * * * *" ? 1 : 0)
  every   = local.minutes > 0 && try(60 % local.minutes, 1) == 0 ? "${local.minutes}m" : var.schedule

  config = merge(
    { for name, value in var.settings : name => value if value != null },
    {
      store  = var.store
      every  = local.every
      access = { platform = "cloud-run" }
      limits = merge(try(var.settings.limits, null), { deadline = "${var.timeout_seconds - 30}s" })

      integrations = [
        for key, each in var.integrations : merge(
          { for name, value in each : name => value if value != null && name != "next_credential" },
          { for name in local.credentials[key] : replace(name, "-", "_") => format("$%s", "{secret:${var.secrets["${key}-${name}"]}/versions/latest}") },
        )
      ]
    },
    { for name, value in { tasks = var.tasks } : name => value if value != null },
    # With no relay the functions forward nothing, and have no engine.
    { for name, value in { engine = var.relay_address } : name => "grpcs://${value}" if value != null },
    {
      for name, value in { engine_access = var.relay_token } : name => merge(
        { token = format("$%s", "{secret:${value}/versions/latest}") },
        { for name, value in { ca = var.relay_ca } : name => value if value != null },
      ) if value != null
    },
  )
}
