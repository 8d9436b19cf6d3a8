"""What the content gate looks for. Each file looks at one kind of content; `rules` says what hits mean."""
