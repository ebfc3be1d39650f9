"""All that the three functions share."""
