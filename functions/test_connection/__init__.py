"""Deployed as test-connection."""
