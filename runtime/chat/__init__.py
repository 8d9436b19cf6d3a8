"""The chat at the terminal: `sealift run MODEL`. Speaks to a server through runtime.client, knows no model."""
