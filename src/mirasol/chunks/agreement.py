"""Settings that a processor and a model's config share, and the check that they agree."""

import math
from typing import Any

from mirasol.chunks.time_grid import SECONDS_PER_MEL_FRAME


def grid_of_chunk(num_frames: int, num_mel_frames: int) -> dict[str, Any]:
    """Return the processor's grid arguments for chunks of these numbers of frames and mel frames."""
    return {
        "frames_per_second": num_frames / (num_mel_frames * SECONDS_PER_MEL_FRAME),
        "num_frames_per_chunk": num_frames,
        "num_mel_frames_per_chunk": num_mel_frames,
    }


def special_tokens(tokenizer: Any) -> dict[str, Any]:
    """Return the token ids of `MirasolConfig`; the end token stands in for a first or a padding token."""
    end = tokenizer.eos_token_id
    begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return {"pad_token_id": pad, "bos_token_id": begin, "eos_token_id": end, "decoder_start_token_id": begin}


def config_values(processor: Any) -> dict[str, Any]:
    """The values of `MirasolConfig` that the processor decides."""
    return {
        "seconds_per_chunk": processor.grid.seconds_per_chunk,
        "video_config": {
            "image_size": processor.image_processor.image_size,
            "num_frames": processor.num_frames_per_chunk,
        },
        "audio_config": {
            "num_mel_frames": processor.num_mel_frames_per_chunk,
            "num_mel_bins": processor.feature_extractor.num_mel_bins,
        },
        "text_config": {"vocab_size": len(processor.tokenizer)},
        **special_tokens(processor.tokenizer),
    }


def check_agreement(processor: Any, config: Any) -> None:
    """Raise ValueError with both numbers if the processor's outputs do not fit the model's inputs."""
    decided = config_values(processor)
    video, audio = decided["video_config"], decided["audio_config"]
    rate = config.num_frames_per_chunk / config.seconds_per_chunk
    equal = {
        "num_frames_per_chunk": (video["num_frames"], config.num_frames_per_chunk),
        "num_mel_frames_per_chunk": (audio["num_mel_frames"], config.num_mel_frames_per_chunk),
        "seconds_per_chunk": (decided["seconds_per_chunk"], config.seconds_per_chunk),
        "frames_per_second": (processor.frames_per_second, rate),
        "num_mel_bins": (audio["num_mel_bins"], config.num_mel_bins),
        "image_size": (video["image_size"], config.image_size),
        "num_channels": (3, config.video_config.num_channels),
        "decoder_start_token_id": (decided["decoder_start_token_id"], config.decoder_start_token_id),
        "eos_token_id": (decided["eos_token_id"], config.eos_token_id),
    }
    for name, (ours, theirs) in equal.items():
        if ours != theirs and not (isinstance(ours, float) and math.isclose(ours, theirs, rel_tol=1e-6)):
            raise ValueError(
                f"Processor and model must agree on {name}, but the processor has {ours} and the model {theirs}: "
                "load both from one checkpoint, or build the processor for this model."
            )
    text = config.text_config
    for name, ours, limit in (
        ("tokens", decided["text_config"]["vocab_size"], text.vocab_size),
        ("tokens of context (model_max_length)", processor.tokenizer.model_max_length, text.max_position_embeddings),
    ):
        if ours > limit:
            raise ValueError(
                f"The processor's tokenizer must not have more {name} than the model has room for, but it has {ours} "
                f"and the model {limit}: load both from one checkpoint, or lower the tokenizer's."
            )
