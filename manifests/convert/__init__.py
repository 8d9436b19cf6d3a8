"""Converting: a model as Hugging Face stores it (config, tokenizer, safetensors) becomes one GGUF."""
