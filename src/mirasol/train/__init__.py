"""`mirasol train`: a typed recipe in, a run folder with checkpoints, logs and the exported best model out."""
