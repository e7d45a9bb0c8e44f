"""What stands between two layers of neurons: definitions."""
