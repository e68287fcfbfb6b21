"""A model as operations over named values: the menu, the graph, its cost."""
