"""`mirasol info PRESET`: cost of a named size, counted on the meta device without computing or allocating."""

from typing import Any

import torch
from einops import rearrange
from torch import nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.modeling_mirasol_encoders import covered_area
from mirasol.model.presets import preset

NUM_FRAMES = (128, 512)
TEXT_TOKENS = 256
BYTES = 2  # bf16
FUSED = "mirasol_counted"  # name of the attention below in transformers' registry


def size_facts(name: str) -> dict[str, Any]:
    """Parameters by part, FLOPs, tokens, latents and memory of a preset, for clips of 128 and of 512 frames.

    FLOPs are of one forward pass over video, audio and 256 text tokens (2 per multiply-add; masked attention counts in
    full).
    """
    config = preset(name)
    model, silent = build(config), build(preset(name, use_audio=False, audio_weight=0.0))
    measured = {str(frames): measure(model, num_chunks(config, frames)) for frames in NUM_FRAMES}
    parts = parameters_by_part(model)
    total = parts.pop("total")
    text = sum(parameter.numel() for parameter in model.model.decoder.parameters())
    head = 0 if model.config.tie_word_embeddings else model.lm_head.weight.numel()
    video: Any = config.video_config
    return {
        "preset": name,
        "parameters": {
            "total": total,
            "total_without_audio": sum(parameter.numel() for parameter in silent.parameters()),
            "audio_video": total - text - head,
            "text": text + head,
            "parts": parts,
        },
        "forward_flops": {frames: flops for frames, (flops, _) in measured.items()},
        "latents": {str(frames): num_chunks(config, frames) * config.num_latents for frames in NUM_FRAMES},
        "tokens_per_chunk": tokens_per_chunk(config),
        "area_seen_per_frame": [round(share, 3) for share in covered_area(video)],
        "text_tokens": TEXT_TOKENS,
        "bytes_in_bf16": {
            "weights": BYTES * total,
            "cache": {str(frames): cache_bytes(config, num_chunks(config, frames)) for frames in NUM_FRAMES},
            "kept_for_backward": {frames: kept for frames, (_, kept) in measured.items()},
        },
    }


def tokens_per_chunk(config: MirasolConfig) -> dict[str, int]:
    """Return the tokens of one chunk: of each encoder, and the latents that the Combiner keeps."""
    video, audio = config.slot_sizes
    return {"video": video, "audio": audio, "latents": config.num_latents}


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Number of parameters of every part (shared ones counted once), largest first, and in total."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parts = name.removeprefix("model.").split(".")
        part = ".".join(parts[:2]) if parts[0] == "encoder" and len(parts) > 2 else parts[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return {"total": sum(counts.values()), **dict(sorted(counts.items(), key=lambda item: -item[1]))}


def num_chunks(config: MirasolConfig, num_frames: int) -> int:
    """Return the number of chunks of a clip with this number of frames."""
    return -(-num_frames // config.num_frames_per_chunk)


def cache_bytes(config: MirasolConfig, chunks: int, text_tokens: int = TEXT_TOKENS) -> int:
    """Return the bytes of the key/value cache: of the text, and of the clip's latents, which are projected once."""
    text = config.text_config
    entries = text_tokens + chunks * config.num_latents
    return 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * entries * BYTES


def build(config: MirasolConfig) -> MirasolForConditionalGeneration:
    """Build the model in bf16 on the meta device, with fused attention as on a GPU."""
    ALL_ATTENTION_FUNCTIONS.register(FUSED, fused_attention)
    with torch.device("meta"):
        return MirasolForConditionalGeneration._from_config(config, attn_implementation=FUSED, dtype=torch.bfloat16)


def measure(model: MirasolForConditionalGeneration, chunks: int, text_tokens: int = TEXT_TOKENS) -> tuple[int, int]:
    """Return the FLOPs of a forward pass over one clip, and the bytes saved for backward, without parameters."""
    config = model.config
    size = config.image_size
    with torch.device("meta"):
        inputs = {
            "pixel_values_videos": torch.empty(1, chunks, config.num_frames_per_chunk, 3, size, size),
            "input_features": torch.empty(1, chunks, config.num_mel_frames_per_chunk, config.num_mel_bins),
            "video_chunk_mask": torch.empty(1, chunks, dtype=torch.bool),
            "audio_chunk_mask": torch.empty(1, chunks, dtype=torch.bool),
            "chunk_times": torch.empty(1, chunks, 2),
            "decoder_input_ids": torch.empty(1, text_tokens, dtype=torch.long),
        }
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(**inputs)
    return counter.get_total_flops(), sum(kept.values())


class _FusedAttention(Function):
    """Attention that saves queries, keys and values for backward, as fused kernels do, but no weights."""

    @staticmethod
    def forward(ctx, query, key, value):
        ctx.save_for_backward(query, key, value)
        key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
        return query @ key.mT @ value


def fused_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Count attention as on a GPU; `scaled_dot_product_attention` on the meta device falls back to plain products."""
    return rearrange(_FusedAttention.apply(query, key, value), "b h q d -> b q h d"), None
