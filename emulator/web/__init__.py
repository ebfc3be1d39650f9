"""The operator's page, the status and the metrics."""
