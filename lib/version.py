"""The version of this product, and its command: the one place that says them."""

VERSION = "0.2.0"
"""Packages, images and `--version` read it here."""
COMMAND = "sophos-utmstack" if __file__.endswith("/sophos_utmstack/lib/version.py") else "python -m emulator"
"""What a person types: the installed package's command, or the module of a source tree."""
