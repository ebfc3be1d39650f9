"""One folder a function: entry points, nothing to reuse."""
