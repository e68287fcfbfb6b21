"""Models at rest: GGUF files, safetensors, Hugging Face folders and our own artifacts."""
