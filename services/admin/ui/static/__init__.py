"""Files served as they are."""
