"""Named sizes, as values of `MirasolConfig`."""

from copy import deepcopy

from .configuration_mirasol import MirasolConfig

LARGE_PICTURE: dict = {  # 340 tokens a chunk of 8 x 224 x 224, which together see 96 % of every frame
    "image_size": 224,
    "tubes": (
        ((4, 20, 20), (4, 20, 20), (0, 2, 2)),
        ((8, 8, 8), (8, 32, 32), (0, 12, 12)),
        ((1, 16, 16), (8, 32, 32), (0, 8, 8)),
    ),
}
LARGE_TEXT: dict = {"vocab_size": 32_000, "max_position_embeddings": 2048}


def _sizes(width: int, layers: int, heads: int, mlp: int, **others) -> dict:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {**dict(zip(names, (width, layers, heads, mlp), strict=True)), **others}


# Each part as (width, layers, heads, width of the MLP) and what else is its own.
PRESETS: dict[str, dict] = {
    # trains from scratch on two CPU cores; 25 frames a second (0.32 s chunks), for lips and speech
    "nano": {
        "seconds_per_chunk": 0.32,
        "initializer_range": 0.1,  # about 1/sqrt(width): at 0.02 attention stays uniform for thousands of steps
        "video_config": _sizes(
            96, 3, 3, 384,
            image_size=32,
            motion_gain=4.0,  # lips change a still face little
            tubes=(
                ((2, 16, 16), (2, 16, 16), (0, 0, 0)),
                ((2, 32, 32), (2, 32, 32), (0, 0, 0)),
                ((1, 16, 16), (8, 16, 16), (0, 0, 0)),
            ),
        ),
        "audio_config": _sizes(96, 3, 3, 384, num_mel_frames=32, patches=(((4, 128), (2, 128), (0, 0)),)),
        "combiner_config": _sizes(96, 2, 3, 384, num_latents=15),
        "temporal_config": _sizes(96, 2, 3, 384),
        "text_config": _sizes(96, 3, 3, 256, num_key_value_heads=3),
    },
    # one consumer GPU; the default grid: 12.5 frames a second, 0.64 s chunks, 128 frames in 16 chunks
    "small": {
        "video_config": _sizes(384, 8, 6, 1536, image_size=96),
        "audio_config": _sizes(256, 6, 4, 1024),
        "combiner_config": _sizes(384, 2, 6, 1536),
        "temporal_config": _sizes(384, 6, 6, 1536),
        "text_config": _sizes(384, 8, 6, 1024, vocab_size=8192, head_dim=64, max_position_embeddings=1024),
    },
    # ViT-B for the picture, ViT-S for the sound; trains on one GPU of 24 GB
    "base": {
        "video_config": _sizes(768, 12, 12, 3072, **LARGE_PICTURE),
        "audio_config": _sizes(384, 12, 6, 1536),
        "combiner_config": _sizes(768, 4, 12, 3072),
        "temporal_config": _sizes(768, 12, 12, 3072, predicted_video_size=(2, 28, 28)),
        "text_config": _sizes(1024, 12, 16, 2816, num_key_value_heads=4, head_dim=64, **LARGE_TEXT),
    },
    # the paper's size: about 3 billion parameters, more than half of them for picture and sound
    "3b": {
        "video_config": _sizes(1280, 32, 16, 5120, **LARGE_PICTURE),
        "audio_config": _sizes(768, 12, 12, 3072),
        "combiner_config": _sizes(1536, 8, 16, 6144),
        "temporal_config": _sizes(1536, 24, 16, 6144, predicted_video_size=(2, 28, 28)),
        "text_config": _sizes(2048, 20, 16, 6912, num_key_value_heads=4, head_dim=128, **LARGE_TEXT),
    },
}  # fmt: skip


def preset(name: str, **overrides) -> MirasolConfig:
    """The config of a named size; `overrides` replace single values (`video_config={"image_size": 96}`)."""
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}. Choose one of {sorted(PRESETS)}.")
    values = deepcopy(PRESETS[name])
    for key, value in overrides.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return MirasolConfig(**values)
