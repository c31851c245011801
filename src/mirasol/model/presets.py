"""Named sizes: each is nothing but values of `MirasolConfig`."""

from copy import deepcopy

from .configuration_mirasol import MirasolConfig

PRESETS: dict[str, dict] = {
    # trains from scratch on two CPU cores; 25 frames a second (0.32 s chunks), for lips and speech
    "nano": {
        "seconds_per_chunk": 0.32,
        "initializer_range": 0.1,  # about 1/sqrt(width): at 0.02 attention stays uniform for thousands of steps
        "video_config": {
            "hidden_size": 96,
            "num_attention_heads": 3,
            "intermediate_size": 384,
            "image_size": 48,
            "motion_gain": 4.0,  # lips change a still face little
            "tubes": (
                ((2, 16, 16), (2, 16, 16), (0, 0, 0)),
                ((8, 8, 8), (8, 32, 32), (0, 4, 4)),
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
}


def preset(name: str, **overrides) -> MirasolConfig:
    """The config of a named size; `overrides` replace single values (`video_config={"image_size": 96}`)."""
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}. Choose one of {sorted(PRESETS)}.")
    values = deepcopy(PRESETS[name])
    for key, value in overrides.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return MirasolConfig(**values)
