"""A model in which every axis has another size, nearly all prime, and clips for it: no mixed-up axes go unnoticed."""

import torch
from torch import Tensor

from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration

BATCH, CHUNKS, FRAMES, MEL_FRAMES, LATENTS, TOKENS = 2, 5, 3, 7, 11, 13
MANY_CHUNKS = 23
IMAGE_SIZE, MEL, VOCAB = 10, 5, 37
PAD, BOS, EOS = 0, 1, 2

TINY: dict = {
    "audio_weight": 0.5,
    "video_config": {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 19,
        "image_size": IMAGE_SIZE,
        "num_frames": FRAMES,
        "tubes": (((3, 5, 5), (3, 5, 5), (0, 0, 0)), ((1, 4, 4), (1, 6, 6), (0, 0, 0))),  # 4 and 12 tokens
    },
    "audio_config": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 17,
        "num_mel_frames": MEL_FRAMES,
        "num_mel_bins": MEL,
        "patches": (((2, 5), (1, 5), (0, 0)),),  # 6 tokens
    },
    "combiner_config": {"hidden_size": 20, "num_attention_heads": 2, "intermediate_size": 29, "num_latents": LATENTS},
    "temporal_config": {
        "hidden_size": 20,
        "num_attention_heads": 2,
        "intermediate_size": 31,
        "num_hidden_layers": 2,
        "predicted_video_size": (1, 5, 2),
        "predicted_audio_size": (7, 1),
    },
    "text_config": {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "intermediate_size": 23,
        "time_code_size": 14,
    },
}


def tiny_config(**overrides) -> MirasolConfig:
    """The tiny config; `overrides` replace single values (`text_config={"vocab_size": 41}`)."""
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()}
    for key, value in overrides.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return MirasolConfig(**{"seconds_per_chunk": 0.01 * values["audio_config"]["num_mel_frames"]} | values)


def enliven(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with parameters so large that every one of them matters to every output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim < 2:
                parameter.copy_(0.2 * noise)
            else:
                parameter.copy_(1.5 * noise / parameter.shape[-1] ** 0.5)
            if name.endswith("cross_attention_gate"):
                parameter.fill_(1.0)
    return model


def tiny_model(seed: int = 0, attention: str = "sdpa", **overrides) -> MirasolForConditionalGeneration:
    """A tiny model in eval mode."""
    config = tiny_config(**overrides)
    model = MirasolForConditionalGeneration._from_config(config, attn_implementation=attention)
    return enliven(model, seed).eval()


def media(batch: int = BATCH, chunks: int = CHUNKS, seed: int = 0) -> dict[str, Tensor]:
    """Random clips of which every chunk has picture and sound."""
    generator = torch.Generator().manual_seed(seed)
    start = 0.7 * torch.arange(chunks).expand(batch, chunks)
    return {
        "pixel_values_videos": torch.randn(batch, chunks, FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator),
        "input_features": torch.randn(batch, chunks, MEL_FRAMES, MEL, generator=generator),
        "video_chunk_mask": torch.ones(batch, chunks, dtype=torch.bool),
        "audio_chunk_mask": torch.ones(batch, chunks, dtype=torch.bool),
        "chunk_times": torch.stack([start, start + 0.7], dim=-1),
    }


def questions(rows: int = BATCH, tokens: int = TOKENS, seed: int = 0) -> dict[str, Tensor]:
    """Random text with its labels; the first tokens of each row are the question and have no label."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (rows, tokens), generator=generator)
    ids[:, 0] = BOS
    labels = torch.cat([ids[:, 1:], torch.full((rows, 1), EOS)], dim=1)
    labels[:, : tokens // 2] = -100
    return {"decoder_input_ids": ids, "labels": labels}


def with_indices(clips: dict[str, Tensor]) -> dict[str, Tensor]:
    """The clips with the packing indices of their real chunks, as the collator gives them."""
    return {
        **clips,
        "video_chunk_index": clips["video_chunk_mask"].flatten().nonzero()[:, 0],
        "audio_chunk_index": clips["audio_chunk_mask"].flatten().nonzero()[:, 0],
    }


def select(clips: dict[str, Tensor], row: int, chunks: int | None = None) -> dict[str, Tensor]:
    """One clip of a batch, and only its first `chunks` chunks."""
    return {key: value[row : row + 1, :chunks] for key, value in clips.items()}
