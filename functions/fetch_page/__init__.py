"""Deployed as fetch-page."""
