"""`mirasol train`: from a typed recipe to a run folder with checkpoints, logs and the best model."""
