"""The OpenAI-compatible server: schemas, admission, streaming, metrics over one engine service."""
