"""mirasol inside other programs."""
