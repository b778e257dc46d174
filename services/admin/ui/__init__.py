"""The admin UI."""
