"""Named sizes, as values of `MirasolConfig`."""

from copy import deepcopy

from .configuration_mirasol import MirasolConfig

LARGE_PICTURE = {  # 340 tokens a chunk of 8 x 224 x 224, which together see 96 % of every frame
    "image_size": 224,
    "tubes": (
        ((4, 20, 20), (4, 20, 20), (0, 2, 2)),
        ((8, 8, 8), (8, 32, 32), (0, 12, 12)),
        ((1, 16, 16), (8, 32, 32), (0, 8, 8)),
    ),
}
PRESETS: dict[str, dict] = {
    # trains from scratch on two CPU cores; 25 frames a second (0.32 s chunks), for lips and speech
    "nano": {
        "seconds_per_chunk": 0.32,
        "initializer_range": 0.1,  # about 1/sqrt(width): at 0.02 attention stays uniform for thousands of steps
        "video_config": {
            "hidden_size": 96,
            "num_attention_heads": 3,
            "intermediate_size": 384,
            "image_size": 32,
            "motion_gain": 4.0,  # lips change a still face little
            "tubes": (
                ((2, 16, 16), (2, 16, 16), (0, 0, 0)),
                ((2, 32, 32), (2, 32, 32), (0, 0, 0)),
                ((1, 16, 16), (8, 16, 16), (0, 0, 0)),
            ),
        },
        "audio_config": {
            "hidden_size": 96,
            "num_attention_heads": 3,
            "intermediate_size": 384,
            "num_mel_frames": 32,
            "patches": (((4, 128), (2, 128), (0, 0)),),
        },
        "combiner_config": {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 384, "num_latents": 15},
        "temporal_config": {
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 384,
        },
        "text_config": {
            "hidden_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "intermediate_size": 256,
        },
    },
    # one consumer GPU; the default grid: 12.5 frames a second, 0.64 s chunks, 128 frames in 16 chunks
    "small": {
        "video_config": {
            "hidden_size": 384,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "image_size": 96,
        },
        "audio_config": {
            "hidden_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        "combiner_config": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
        "temporal_config": {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
        },
        "text_config": {
            "vocab_size": 8192,
            "hidden_size": 384,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "head_dim": 64,
            "intermediate_size": 1024,
            "max_position_embeddings": 1024,
        },
    },
    # ViT-B for the picture, ViT-S for the sound; trains on one GPU of 24 GB
    "base": {
        "video_config": {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            **LARGE_PICTURE,
        },
        "audio_config": {
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
        },
        "combiner_config": {
            "hidden_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
        "temporal_config": {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "predicted_video_size": (2, 28, 28),
        },
        "text_config": {
            "vocab_size": 32_000,
            "hidden_size": 1024,
            "num_hidden_layers": 12,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "intermediate_size": 2816,
            "max_position_embeddings": 2048,
        },
    },
    # the paper's size: about 3 billion parameters, more than half of them for picture and sound
    "3b": {
        "video_config": {
            "hidden_size": 1280,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "intermediate_size": 5120,
            **LARGE_PICTURE,
        },
        "audio_config": {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
        "combiner_config": {
            "hidden_size": 1536,
            "num_hidden_layers": 8,
            "num_attention_heads": 16,
            "intermediate_size": 6144,
        },
        "temporal_config": {
            "hidden_size": 1536,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 6144,
            "predicted_video_size": (2, 28, 28),
        },
        "text_config": {
            "vocab_size": 32_000,
            "hidden_size": 2048,
            "num_hidden_layers": 20,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "intermediate_size": 6912,
            "max_position_embeddings": 2048,
        },
    },
}


def preset(name: str, **overrides) -> MirasolConfig:
    """The config of a named size; `overrides` replace single values (`video_config={"image_size": 96}`)."""
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}. Choose one of {sorted(PRESETS)}.")
    values = deepcopy(PRESETS[name])
    for key, value in overrides.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return MirasolConfig(**values)
