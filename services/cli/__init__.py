"""The commands of `meridian` over the management API of a running proxy."""
