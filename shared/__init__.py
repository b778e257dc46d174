"""Library code that the worker and the admin share. See docs/architecture.md for the layers."""
