"""The benchmarks' official metrics, reimplemented in plain Python and NumPy and tested against their scripts."""
