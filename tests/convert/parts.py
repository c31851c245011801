"""Tiny checkpoints of other architectures, as their own classes write them, every weight random and large."""

import json
from pathlib import Path

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from mirasol.train.tokenizer import build_tokenizer
from tests.model.tiny import enliven

PATCH, GRID = 5, 3
IMAGE_SIZE = PATCH * GRID
MEL_FRAMES, MEL = 32, 11
VIT = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 19}
PICTURE = {"image_size": IMAGE_SIZE, "patch_size": PATCH}
MEAN, STD = [0.41, 0.43, 0.47], [0.23, 0.29, 0.31]
VOCAB, MORE = 283, 13  # models have more embeddings than their tokenizer has tokens
TEXT = {
    "vocab_size": VOCAB + MORE,
    "hidden_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 23,
    "max_position_embeddings": 97,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 31,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 31}
HEAD = 6  # not width / heads, which is 5
TEXTS = {
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(**TEXT, head_dim=HEAD, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3),
    ),
    "llama_linear": (
        LlamaForCausalLM,
        LlamaConfig(
            **TEXT, head_dim=HEAD, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}
        ),
    ),
    "smollm": (LlamaForCausalLM, LlamaConfig(**TEXT, head_dim=HEAD, tie_word_embeddings=True)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**TEXT | {"hidden_size": 24}, rope_parameters=YARN)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**TEXT, head_dim=HEAD, tie_word_embeddings=True)),
}


def _siglip() -> PreTrainedModel:
    return SiglipVisionModel(SiglipVisionConfig(**VIT, **PICTURE))


def _whole_siglip() -> PreTrainedModel:
    text = SiglipTextConfig(vocab_size=17, **VIT, max_position_embeddings=5)
    return SiglipModel(SiglipConfig(text_config=text, vision_config=SiglipVisionConfig(**VIT, **PICTURE)))


def _siglip2() -> PreTrainedModel:
    return Siglip2VisionModel(Siglip2VisionConfig(**VIT, patch_size=PATCH, num_patches=GRID**2))


def _vit() -> PreTrainedModel:
    return ViTModel(ViTConfig(**VIT, **PICTURE, qkv_bias=False, layer_norm_eps=1e-3))


def _vit_with_classifier() -> PreTrainedModel:
    return ViTForImageClassification(ViTConfig(**VIT, **PICTURE))


VISIONS = {
    "siglip": _siglip,
    "siglip_whole": _whole_siglip,
    "siglip2": _siglip2,
    "vit": _vit,
    "vit_classifier": _vit_with_classifier,
}


def write_vision(name: str, folder: Path) -> PreTrainedModel:
    """Writes the tower with its image processor's file, and gives it back."""
    model = enliven(VISIONS[name](), seed=1).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return model


def write_audio(folder: Path, max_length: int = MEL_FRAMES) -> ASTModel:
    """Writes an AST with its feature extractor, and gives it back."""
    config = ASTConfig(**VIT, patch_size=5, time_stride=3, frequency_stride=2, max_length=max_length, num_mel_bins=MEL)
    model = enliven(ASTModel(config), seed=2).eval()
    model.save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=MEL, max_length=max_length, mean=-3.7, std=4.3).save_pretrained(folder)
    return model


def write_text(name: str, folder: Path, pad: bool = False) -> PreTrainedModel:
    """Writes a language model with a byte-level tokenizer, by default without a padding token, and gives it back."""
    kind, config = TEXTS[name]
    model = enliven(kind(config), seed=3).eval()
    model.save_pretrained(folder)
    tokenizer = build_tokenizer(["which color is named?", "red blue green white"], VOCAB, model_max_length=10**30)
    if not pad:
        tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    return model


def random_pictures(num: int) -> torch.Tensor:
    """Random pictures [num, channel, height, width]."""
    return torch.randn(num, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
