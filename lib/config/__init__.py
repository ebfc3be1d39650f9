"""The configuration: settings, schema, files, secrets."""
