"""Taking over what an existing LiteLLM proxy's database holds: `meridian import litellm`."""
