"""Who may ask the server for what: keys, their roles, and their limits."""

PREFIX = "slft_"  # of every key, so that people and scanners know what it is
