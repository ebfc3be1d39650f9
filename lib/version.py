"""The version of this product, and its command: the one place that says them."""

from pathlib import Path

VERSION = "0.2.0"
"""Packages, images and `--version` read it here."""
COMMAND = "sophos-utmstack" if Path(__file__).parents[1].name == "sophos_utmstack" else "python -m emulator"
"""What a person types: the installed package's command, or the module of a source tree."""
