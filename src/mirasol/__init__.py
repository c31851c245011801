"""Mirasol3B for PyTorch: watches video with its sound, over long clips, and answers in text."""

from importlib import import_module
from pathlib import Path
from typing import Any

from mirasol.registration import register

__version__ = "0.1.0"
__all__ = [
    "DEFAULT_CHECKPOINT",
    "Answerer",
    "MirasolConfig",
    "MirasolFeatureExtractor",
    "MirasolForConditionalGeneration",
    "MirasolModel",
    "MirasolProcessor",
    "MirasolVideoProcessor",
    "StreamSession",
]

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "nano"


def __getattr__(name: str) -> Any:
    """Return the public class of that name, imported on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'mirasol' has no attribute '{name}'")
    places = {"Answerer": "mirasol.answer.answerer", "StreamSession": "mirasol.answer.session"}
    return getattr(import_module(places.get(name, "mirasol.auto")), name)


register()
