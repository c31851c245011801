"""Evaluation: runner, conditions, metrics over predictions, run folder."""
