"""Mirasol3B for PyTorch: watches video with its sound, over long clips, and answers in text."""

from pathlib import Path
from typing import Any

from mirasol.registration import register

__version__ = "0.1.0"
__all__ = [
    "DEFAULT_CHECKPOINT",
    "MirasolConfig",
    "MirasolFeatureExtractor",
    "MirasolForConditionalGeneration",
    "MirasolModel",
    "MirasolProcessor",
    "MirasolVideoProcessor",
]

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "nano"


def __getattr__(name: str) -> Any:
    """Return the public class of that name, imported on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'mirasol' has no attribute '{name}'")
    from mirasol import auto

    return getattr(auto, name)


register()
