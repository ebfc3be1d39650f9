"""UTMStack's engine over gRPC."""
