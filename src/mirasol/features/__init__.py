"""Frames -> `pixel_values_videos`; waveform -> `input_features`."""

from mirasol.features.feature_extraction_mirasol import MirasolFeatureExtractor
from mirasol.features.image_processing_mirasol import MirasolVideoProcessor

__all__ = ["MirasolFeatureExtractor", "MirasolVideoProcessor"]
