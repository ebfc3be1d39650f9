variable "integrations" {
  description = "The integrations, by a short key; each an object with keys of the configuration."
  type        = any

  validation {
    condition     = length(var.integrations) > 0 && alltrue([for key in keys(var.integrations) : can(regex("^[a-z][a-z0-9-]{0,30}$", key))])
    error_message = "integrations: name at least one; its key has up to 31 small letters, digits and hyphens."
  }

  validation {
    condition     = alltrue([for each in values(var.integrations) : length(setsubtract(keys(each), keys(local.keys))) == 0])
    error_message = "integrations: unknown key ${join(", ", flatten([for key, each in var.integrations : [for name in setsubtract(keys(each), keys(local.keys)) : "${key}.${name}"]]))}. Known are: ${join(", ", keys(local.keys))}."
  }

  validation {
    condition     = alltrue([for each in values(var.integrations) : can(length(each.name)) && try(each.name, "") != ""])
    error_message = "integrations: each needs a name."
  }

  validation {
    condition     = length(distinct([for each in values(var.integrations) : try(each.name, "")])) == length(var.integrations)
    error_message = "integrations: two have one name."
  }

  validation {
    condition = alltrue(flatten([
      for each in values(var.integrations) : [
        for name, value in each : value == null || (
          lookup(local.keys, name, "") == "list or all" && try(value == "all", false) ? true :
          startswith(lookup(local.keys, name, ""), "list") ? can([for one in value : tostring(one)]) && try(length(value) > 0 || name == "exclude_types", false) :
          lookup(local.keys, name, "") == "number" ? try(value >= 1 && floor(value) == value, false) :
          lookup(local.keys, name, "") == "flag" ? can(tobool(value)) : can(tostring(value))
        )
      ]
    ]))
    error_message = "integrations: tenants, streams and exclude_types are lists, calls_per_minute is a whole number, next_credential true or false; all others are texts."
  }

  validation {
    condition     = alltrue([for each in values(var.integrations) : length(setsubtract(try(tolist(coalesce(each.streams, [])), []), ["events", "alerts", "endpoints"])) == 0])
    error_message = "integrations: streams holds events, alerts, endpoints, or several of them."
  }

  validation {
    condition     = alltrue(flatten([for each in values(var.integrations) : [for name in ["inventory", "lookback", "reconcile", "settle"] : can(regex("^([0-9]+[smhd]|off)$", coalesce(try(each[name], null), "0s")))]]))
    error_message = "integrations: write durations such as 90s, 5m, 24h or 7d."
  }
}

variable "secrets" {
  description = "The secret's id (projects/P/secrets/S) of each client id and secret, by integration's key and name: acme-client-id."
  type        = map(string)
}

variable "settings" {
  description = "Further keys of the configuration: archive, gap_data_type, heartbeat, limits, log, observe, sophos."
  type        = any
  default     = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), local.settings)) == 0
    error_message = "settings: unknown key ${join(", ", setsubtract(keys(var.settings), local.settings))}. Known are: ${join(", ", local.settings)}."
  }
}

variable "store" {
  description = "The store's location."
  type        = string
}

variable "schedule" {
  description = "The cron line of the tick."
  type        = string
}

variable "timeout_seconds" {
  description = "How long the platform lets a call take."
  type        = number
}

variable "tasks" {
  description = "The queue, its target and whose account calls it; null for one call a tick."
  type        = object({ queue = string, url = string, service_account = string })
  default     = null
}

variable "relay_address" {
  description = "HOST:PORT of the relay; null where a site forwards."
  type        = string
  default     = null
}

variable "relay_token" {
  description = "The id of the secret with the relay's token; null where a site forwards."
  type        = string
  default     = null
}

variable "relay_ca" {
  description = "The PEM of the relay's authority; null for one that everybody trusts."
  type        = string
  default     = null
}
