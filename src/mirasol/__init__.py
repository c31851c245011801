"""Mirasol3B for PyTorch: watches video with its sound, over long clips, and answers in text."""

__version__ = "0.1.0"
