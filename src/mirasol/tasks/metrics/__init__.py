"""The official metrics of the benchmarks, written anew and proven equal to their scripts: plain Python and NumPy."""
