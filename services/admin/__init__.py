"""The admin: the management API and the UI, beside the same data plane as a worker's."""
