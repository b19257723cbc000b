"""Speed, memory and learning, measured: each module runs by itself, as `python -m benchmarks.speed`."""
