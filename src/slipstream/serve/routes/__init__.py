"""One module for each family of routes; each has ``routes(server) -> list[Route]``."""
