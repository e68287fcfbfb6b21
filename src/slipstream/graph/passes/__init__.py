"""Graph to graph: fusion, and how values are stored. Each is provably equal to the reference."""
