"""The worker: LLM traffic near its users. Wiring and route registration only."""
