"""Tool calls in the text that models write: formats, parsers, and the words that ask for them."""
