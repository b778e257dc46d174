"""The two deployable services. Wiring and route registration; they never import each other."""
