"""Mirasol3B for PyTorch: watches video with its sound, over long clips, and answers in text."""

import sys
from pathlib import Path
from typing import Any

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
    """The public class of that name; in the command, on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'mirasol' has no attribute '{name}'")
    from mirasol import auto

    return getattr(auto, name)


# Registers the classes with AutoModel and the like, so that `import mirasol` is all they need. The command does it in
# the commands that use a model, because torch and transformers take 5 s to load: docs/decisions/0001-import-cost.md.
if Path(sys.argv[0]).stem != "mirasol":
    from mirasol import auto  # noqa: F401
