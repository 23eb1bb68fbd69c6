"""Speed: what is timed (ops/, gathered in registry.py), how (timing.py, run.py, compare.py) and what is told of it."""
