"""The model: chunks of features -> latents -> text. Read the files in the order encoders, combiner, temporal, decoder."""
