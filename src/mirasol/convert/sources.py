"""Load checkpoints of other architectures from a folder or the Hub; refuse those that do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import logging

from mirasol.convert.fold import fold

# A checkpoint of a whole SigLIP, or of a ViT or AST with a classifier, contains the tower.
ARCHITECTURES = {
    "vision": {
        "siglip": "SiglipVisionModel", "siglip_vision_model": "SiglipVisionModel",
        "siglip2": "Siglip2VisionModel", "siglip2_vision_model": "Siglip2VisionModel",
        "clip": "CLIPVisionModel", "clip_vision_model": "CLIPVisionModel", "vit": "ViTModel", "deit": "DeiTModel",
        "dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel",
    },
    "audio": {"audio-spectrogram-transformer": "ASTModel"},
    "text": {
        "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM", "smollm3": "SmolLM3ForCausalLM", "granite": "GraniteForCausalLM",
        "gemma": "GemmaForCausalLM", "phi3": "Phi3ForCausalLM",
    },
}  # fmt: skip
FAMILIES = {
    "vision": "SigLIP, SigLIP 2, CLIP, ViT, DeiT and DINOv2",
    "audio": "AST",
    "text": "Llama, SmolLM 1-3, Mistral, Qwen2, Qwen2.5, Qwen3, Granite, Gemma 1, Phi-3 and Phi-4",
}
_NORMS_AFTER = "it has norms after attention and MLP, which cannot be folded into a weight"
# Reasons why common checkpoints do not fit, by model_type.
REASONS = {
    "gemma2": f"{_NORMS_AFTER}, and soft-caps its scores and logits",
    "gemma3_text": f"{_NORMS_AFTER}, and two kinds of rotary positions",
    "gemma3": f"{_NORMS_AFTER}, and two kinds of rotary positions",
    "olmo2": _NORMS_AFTER,
    "olmo3": _NORMS_AFTER,
    "phi": "attention and MLP are parallel, with LayerNorm, and rotary positions cover only part of a head",
    "gpt2": "it has LayerNorm, learned positions and an MLP without gate",
    "mixtral": "it has a mixture of experts in place of the MLP",
    "qwen3_moe": "it has a mixture of experts in place of the MLP",
    "dinov3_vit": "it has rotary positions in every layer",
    "dinov3_convnext": "it is a convolutional network",
    "beit": "it has relative position biases in its attention, and no last norm",
    "videomae": "its positions cover 16 frames at once, and most of its checkpoints have no last norm",
    "vivit": "its positions cover 32 frames at once",
    "vjepa2": "it has rotary positions in space and time in every layer",
    "whisper": "its input passes two convolutions with an activation between them, unlike a patch projection",
    "clap": "its audio tower is a Swin transformer, with windows and a hierarchy",
    "wav2vec2": "its input is the waveform, through seven convolutions, instead of log-mel",
    "hubert": "its input is the waveform, through seven convolutions, instead of log-mel",
}


@dataclass(frozen=True)
class Source:
    """One pretrained part: name, config and weights in float32, folded, by the names of transformers' class."""

    name: str
    config: PreTrainedConfig
    weights: dict[str, Tensor]


def load_source(part: str, name: str) -> Source:
    """Return the checkpoint `name` (folder or Hub) for a `part`: "vision", "audio" or "text".

    Raises:
        ValueError: The architecture does not fit that part, or weights are missing.
    """
    model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    fitting = ARCHITECTURES[part]
    if model_type not in fitting:
        reason = REASONS.get(str(model_type), "it has another shape")
        raise ValueError(
            f"Expected a {part} checkpoint of model_type {', '.join(fitting)} ({FAMILIES[part]}), found "
            f"{model_type!r} in {name}. Its weights do not fit Mirasol's {part} part ({reason}): pass one of these."
        )
    kwargs: dict[str, Any] = {"add_pooling_layer": False} if model_type in ("vit", "deit") else {}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # because it warns of the unused classifier or pooler
    logging.disable_progress_bar()
    try:
        kind: Any = getattr(transformers, fitting[model_type])
        model, report = kind.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **kwargs)
    finally:
        logging.set_verbosity(verbosity)
    # Pooling heads of vision towers are not used, so they may be absent.
    absent = sorted(key for key in report["missing_keys"] if not key.startswith("head."))
    if absent:
        raise ValueError(
            f"Expected all weights of {type(model).__name__} in {name}, found that {len(absent)} are missing: "
            f"{', '.join(absent[:5])}. Use a checkpoint of the whole model."
        )
    return Source(name, model.config, fold(model.config, model.state_dict()))
