"""What lies in the store, one file a kind."""
