"""The methods: a few functions on arrays each, with the paper's symbols; no driving code."""
