"""Checkpoint and clips -> answers: the only place that runs the encoder and `generate`."""
