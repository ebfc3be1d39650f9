"""The function platform for one machine."""
