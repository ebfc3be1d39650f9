output "yaml" {
  description = "connector.yaml. It names secrets and holds none."
  value       = yamlencode(local.config)
}

output "secrets" {
  description = "The names of the secrets that the integrations need."
  value       = toset(flatten([for key, names in local.credentials : [for name in names : "${key}-${name}"]]))
}

output "calls_per_minute" {
  description = "The calls to Sophos that all credentials together may make."
  value       = local.calls_per_minute
}
