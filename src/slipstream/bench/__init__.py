"""Speed and memory of programs on this machine: workloads, alternation, comparison."""
