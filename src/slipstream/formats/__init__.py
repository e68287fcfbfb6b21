"""How numbers are stored, one format a file; numpy only."""
