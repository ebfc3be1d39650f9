"""Deployed as forward-batch."""
