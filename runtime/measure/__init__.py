"""What a model is worth on this machine: how fast it runs (`sealift bench`), how well it predicts (`sealift eval`)."""
