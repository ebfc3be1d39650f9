"""HTTP: requests in, problems out, who may call."""
