"""How the product is packaged: what it is installed as, and how the artefacts of a release are made."""
