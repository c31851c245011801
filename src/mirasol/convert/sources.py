"""Checkpoints of other architectures, from a folder or the Hub: which ones fit, and their weights, all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ASTModel,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    Siglip2VisionModel,
    SiglipVisionModel,
    ViTModel,
)
from transformers.utils import logging

# Checkpoints of a whole SigLIP, or of a ViT or AST with a classifier, hold the tower among other things.
ARCHITECTURES: dict[str, dict[str, type[PreTrainedModel]]] = {
    "vision": {
        "siglip": SiglipVisionModel,
        "siglip_vision_model": SiglipVisionModel,
        "siglip2": Siglip2VisionModel,
        "siglip2_vision_model": Siglip2VisionModel,
        "vit": ViTModel,
    },
    "audio": {"audio-spectrogram-transformer": ASTModel},
    "text": {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM},
}
FAMILIES = {
    "vision": "SigLIP, SigLIP 2 and ViT",
    "audio": "AST",
    "text": "Llama, SmolLM, SmolLM2, Qwen2, Qwen2.5 and Qwen3",
}


@dataclass(frozen=True)
class Source:
    """One pretrained part: its name, its config and its weights in float32, by the names of transformers' class."""

    name: str
    config: PreTrainedConfig
    weights: dict[str, Tensor]


def load_source(part: str, name: str) -> Source:
    """The checkpoint `name` (folder or Hub) as the `part` "vision", "audio" or "text"; others are refused."""
    model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    fitting = ARCHITECTURES[part]
    if model_type not in fitting:
        raise ValueError(
            f"Expected a {part} checkpoint of model_type {', '.join(fitting)} ({FAMILIES[part]}), found "
            f"{model_type!r} in {name}. Its weights do not fit Mirasol's {part} part: pass one of these."
        )
    kwargs: dict[str, Any] = {"add_pooling_layer": False} if model_type == "vit" else {}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what a classifier or pooler beside the tower holds is not wanted
    logging.disable_progress_bar()
    try:
        loaded: Any = fitting[model_type].from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **kwargs
        )
    finally:
        logging.set_verbosity(verbosity)
    model, report = loaded
    # The pooling heads of vision towers are not used, so they may lack.
    absent = sorted(key for key in report["missing_keys"] if not key.startswith("head."))
    if absent:
        raise ValueError(
            f"Expected all weights of {type(model).__name__} in {name}, found none for {len(absent)}: "
            f"{', '.join(absent[:5])}. Use a checkpoint of the whole model."
        )
    return Source(name, model.config, model.state_dict())
