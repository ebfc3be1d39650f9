"""Object stores with compare-and-set."""
