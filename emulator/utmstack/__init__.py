"""Following UTMStack's own configuration."""
