"""The version of this product: the one place that says it. Packages, images and `--version` read it here."""

VERSION = "0.2.0"
