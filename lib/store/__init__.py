"""Objects with compare-and-set."""
