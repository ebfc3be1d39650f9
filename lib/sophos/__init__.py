"""Sophos Central over HTTP."""
