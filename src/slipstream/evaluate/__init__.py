"""How good a program is: perplexity, distance from a baseline, and whether limits are kept."""
