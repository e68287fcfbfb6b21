"""From a graph to a program that runs: the reference, and the native kernels."""
