"""The model: chunks of features -> latents -> text. Read them in the order encoders, combiner, temporal, decoder."""
