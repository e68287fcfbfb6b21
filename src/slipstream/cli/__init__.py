"""The command line: one verb per file, loaded on demand."""
