"""What deploys the functions."""
