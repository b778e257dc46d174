"""What several test modules need: servers, clients, builders."""
