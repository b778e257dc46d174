"""Routes of the data plane that are not LLM calls."""
