"""Tiny checkpoints of other architectures, as their own classes write them, every weight random and large."""

import json
from pathlib import Path

import torch
from einops import rearrange
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    GemmaConfig,
    GemmaForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
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
    SmolLM3Config,
    SmolLM3ForCausalLM,
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
EVEN = TEXT | {"hidden_size": 24}  # for classes without head_dim
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.7,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.5,
    "attention_bias": True,
    "mlp_bias": True,
}
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
    "mistral": (MistralForCausalLM, MistralConfig(**TEXT, head_dim=HEAD, sliding_window=None)),
    "mistral_window": (MistralForCausalLM, MistralConfig(**TEXT, head_dim=HEAD, sliding_window=61)),
    "smollm3": (
        SmolLM3ForCausalLM,
        SmolLM3Config(**EVEN, no_rope_layers=[1, 0, 1], tie_word_embeddings=True, pad_token_id=None),
    ),
    "granite": (GraniteForCausalLM, GraniteConfig(**EVEN, **MULTIPLIERS)),
    "granite_tied": (GraniteForCausalLM, GraniteConfig(**EVEN, **MULTIPLIERS, tie_word_embeddings=True)),
    "gemma": (GemmaForCausalLM, GemmaConfig(**TEXT, head_dim=HEAD)),
    "gemma_untied": (GemmaForCausalLM, GemmaConfig(**TEXT, head_dim=HEAD, tie_word_embeddings=False)),
    "phi3": (Phi3ForCausalLM, Phi3Config(**EVEN, sliding_window=63, pad_token_id=None)),
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


def _clip() -> PreTrainedModel:
    text = {"vocab_size": 17, **VIT, "max_position_embeddings": 5}
    return CLIPModel(CLIPConfig(text_config=text, vision_config={**VIT, **PICTURE}, projection_dim=7))


def _clip_with_projection() -> PreTrainedModel:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**VIT, **PICTURE, projection_dim=7, hidden_act="gelu"))


def _deit() -> PreTrainedModel:
    return DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT, **PICTURE))


DINO = {name: VIT[name] for name in VIT if name != "intermediate_size"} | PICTURE | {"mlp_ratio": 2}


def _dinov2() -> PreTrainedModel:
    return Dinov2ForImageClassification(Dinov2Config(**DINO, qkv_bias=False))


def _dinov2_with_registers() -> PreTrainedModel:
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**DINO, num_register_tokens=3))


VISIONS = {
    "clip": _clip,
    "clip_projection": _clip_with_projection,
    "deit": _deit,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2_with_registers,
    "siglip": _siglip,
    "siglip_whole": _whole_siglip,
    "siglip2": _siglip2,
    "vit": _vit,
    "vit_classifier": _vit_with_classifier,
}


def write_vision(name: str, folder: Path, seed: int = 1) -> PreTrainedModel:
    """Writes the tower with its image processor's file, and gives it back."""
    model = enliven(VISIONS[name](), seed).eval()
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


def write_text(name: str, folder: Path, pad: bool = False, seed: int = 3) -> PreTrainedModel:
    """Writes a language model with a byte-level tokenizer, by default without a padding token, and gives it back."""
    kind, config = TEXTS[name]
    model = enliven(kind(config), seed).eval()
    model.save_pretrained(folder)
    tokenizer = build_tokenizer(["which color is named?", "red blue green white"], VOCAB, model_max_length=10**30)
    if not pad:
        tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    return model


def features_of(name: str, model: PreTrainedModel, pictures: torch.Tensor) -> torch.Tensor:
    """The tower's own features of pictures [num, token, dim]."""
    if name != "siglip2":
        owners = ("vision_model", "vit", "deit", "dinov2")
        tower = next((getattr(model, owner) for owner in owners if hasattr(model, owner)), model)
        features = tower(pixel_values=pictures).last_hidden_state
        # CLIP's own forward norms only its CLS token; ours norms all.
        return tower.post_layernorm(features) if name.startswith("clip") else features
    patches = rearrange(pictures, "b c (row h) (column w) -> b (row column) (h w c)", h=PATCH, w=PATCH)
    shapes = torch.tensor([[GRID, GRID]]).expand(len(pictures), 2)
    return model(patches, torch.ones(patches.shape[:2]), shapes).last_hidden_state


def random_pictures(num: int) -> torch.Tensor:
    """Random pictures [num, channel, height, width]."""
    return torch.randn(num, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
