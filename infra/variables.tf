variable "project" {
  description = "The Google Cloud project that everything is made in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project id has 6 to 30 small letters, digits and hyphens."
  }
}

variable "region" {
  description = "The region of functions, bucket, queue and triggers."
  type        = string
  default     = "europe-west1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "Write a region, such as europe-west1; not a zone."
  }
}

variable "prefix" {
  description = "Begins the names of all that is made, so that two installations fit into one project."
  type        = string
  default     = "sophos"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,11}$", var.prefix))
    error_message = "2 to 12 small letters, digits and hyphens, since accounts' names end at 30 characters."
  }
}

variable "integrations" {
  description = "The Sophos credentials, by a short key, each with the keys of an integration (connector/main.tf); ids and secrets are put into Secret Manager by hand."
  type        = any
}

variable "settings" {
  description = "Further keys of the configuration: archive, gap_data_type, heartbeat, limits, log, observe, sophos."
  type        = any
  default     = {}
}

variable "relay_address" {
  description = "HOST:PORT of the relay beside UTMStack; null where a site pulls by itself (hybrid)."
  type        = string
  default     = null

  validation {
    condition     = var.relay_address == null || can(regex("^[A-Za-z0-9.-]+:[0-9]{1,5}$", var.relay_address))
    error_message = "Write HOST:PORT, such as relay.example.com:7443."
  }
}

variable "relay_ca" {
  description = "The PEM of the authority that signed the relay's certificate; null for one that everybody trusts."
  type        = string
  default     = null

  validation {
    condition     = var.relay_ca == null || can(regex("-----BEGIN CERTIFICATE-----", var.relay_ca))
    error_message = "Write a PEM, such as file(\"relay-ca.pem\")."
  }
}

variable "relay_network" {
  description = "The Serverless VPC Access connector by which the relay is reached (projects/P/locations/L/connectors/C); all_traffic sends everything through it, for a fixed address by Cloud NAT. null: over the internet."
  type        = object({ connector = string, all_traffic = optional(bool, false) })
  default     = null

  validation {
    condition     = var.relay_network == null || can(regex("^projects/[^/]+/locations/[^/]+/connectors/[^/]+$", var.relay_network.connector))
    error_message = "Write projects/P/locations/L/connectors/C."
  }
}

variable "schedule" {
  description = "How often Sophos is asked: a cron line in UTC; one minute is the smallest."
  type        = string
  default     = "* * * * *"

  validation {
    condition     = length(split(" ", var.schedule)) == 5
    error_message = "Write a cron line of five fields."
  }
}

variable "fan_out" {
  description = "Whether a tick becomes one task for each stream: parallel instances, for about twice the bucket's operations of a tick."
  type        = bool
  default     = true

  validation {
    condition     = var.fan_out || length(var.integrations) <= 100
    error_message = "Over a hundred integrations are too many for one call: leave fan_out on."
  }
}

variable "timeout_seconds" {
  description = "How long one call of a function may take."
  type        = number
  default     = 120

  validation {
    condition     = var.timeout_seconds >= 60 && var.timeout_seconds <= 540
    error_message = "Between 60 and 540 seconds."
  }
}

variable "max_instances" {
  description = "The most instances of each function; a bound of costs, and of connections to the relay."
  type        = number
  default     = 10

  validation {
    condition     = var.max_instances >= 1 && var.max_instances <= 100
    error_message = "Between 1 and 100."
  }
}

variable "min_instances" {
  description = "Instances of fetch-page and forward-batch that are kept warm; 0 costs nothing, and a tick waits for a cold start."
  type        = number
  default     = 0

  validation {
    condition     = var.min_instances >= 0 && var.min_instances <= 10
    error_message = "Between 0 and 10."
  }
}

variable "kms_key" {
  description = "A Cloud KMS key for bucket and secrets (projects/…/cryptoKeys/…); null: Google's keys."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "Write projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }
}

variable "testers" {
  description = "Who may call test-connection, such as user:you@example.com."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for each in var.testers : can(regex("^(user|group|serviceAccount):", each))])
    error_message = "Name people, groups or service accounts; never allUsers."
  }
}

variable "alert_emails" {
  description = "Who is told when something lags, fails or is missing."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for each in var.alert_emails : can(regex("^[^@ ]+@[^@ ]+$", each))])
    error_message = "Write addresses, such as soc@example.com."
  }
}

variable "lag_minutes" {
  description = "A stream that is behind by more than this is told."
  type        = number
  default     = 10

  validation {
    condition     = var.lag_minutes >= 2
    error_message = "2 or more: one minute is the tick itself."
  }
}
