"""The engine: scheduling, KV page accounting, sampling, text; one step runs them all."""
