"""Named sizes: each is nothing but values of `MirasolConfig`."""

from copy import deepcopy

from .configuration_mirasol import MirasolConfig

PRESETS: dict[str, dict] = {
    # trains from scratch on two CPU cores; 25 frames a second (0.32 s chunks), for lips and speech
    "nano": {
        "seconds_per_chunk": 0.32,
        "video_config": {"hidden_size": 128, "num_hidden_layers": 3, "image_size": 64},
        "audio_config": {
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_mel_frames": 32,
            "patches": (((4, 128), (2, 128), (0, 0)),),
        },
        "combiner_config": {"hidden_size": 128, "num_hidden_layers": 2, "num_latents": 15},
        "temporal_config": {"hidden_size": 128, "num_hidden_layers": 3},
        "text_config": {"hidden_size": 128, "num_hidden_layers": 4},
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
