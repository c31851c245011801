"""A checkpoint and clips -> answers: the one place that runs the encoder and `generate`."""
