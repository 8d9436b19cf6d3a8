"""Who may ask the server for what: keys, their roles, and their limits."""
