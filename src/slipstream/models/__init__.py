"""From a config to a graph, one architecture a page; tokenizers and chat templates."""
