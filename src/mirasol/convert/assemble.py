"""`mirasol init`: join pretrained parts by new ones into a checkpoint to fine-tune."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mirasol.chunks import MirasolProcessor
from mirasol.chunks.agreement import grid_of_chunk, special_tokens
from mirasol.chunks.time_grid import SECONDS_PER_MEL_FRAME
from mirasol.convert.language import load_tokenizer, text_values, text_weights
from mirasol.convert.sources import load_source
from mirasol.convert.towers import AudioTower, VisionTower
from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor
from mirasol.files import whole_folder
from mirasol.model.configuration_mirasol import (
    MirasolAudioConfig,
    MirasolConfig,
    MirasolTemporalConfig,
    MirasolTransformerConfig,
    MirasolVideoConfig,
)
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.results import Result
from mirasol.settings import apply_overrides, reject_unknown_fields, values_that_fit

MAX_LATENTS = 32  # as in the paper


class InitResult(Result):
    """Result of `init`: folder, parts, and numbers of pretrained and new parameters."""

    output: str
    vision: str | None
    audio: str | None
    text: str
    num_pretrained_parameters: int
    num_new_parameters: int
    seconds_per_chunk: float
    video_tokens_per_chunk: int
    audio_tokens_per_chunk: int

    def __str__(self) -> str:
        rows = {
            "vision": self.vision or "new",
            "audio": self.audio
            or ("the video encoder's" if self.audio_tokens_per_chunk else "none: a video-only model"),
            "text": self.text,
            "pretrained": f"{self.num_pretrained_parameters:,} parameters",
            "new": f"{self.num_new_parameters:,} parameters, to be trained first",
            "chunk": f"{self.seconds_per_chunk:g} s, {self.video_tokens_per_chunk} tokens of picture, "
            f"{self.audio_tokens_per_chunk} of sound",
        }
        return "\n".join([f"checkpoint: {self.output}", *(f"  {name:<11} {value}" for name, value in rows.items())])


def init(
    vision: str | Path | None = None,
    audio: str | Path | None = None,
    text: str | Path | None = None,
    output: str | Path = "",
    overrides: Sequence[str] | dict[str, Any] = (),
    max_chunks: int = 16,
    seed: int = 0,
) -> InitResult:
    """Write a checkpoint with the exact weights of the named parts and new weights between them.

    Args:
        vision: SigLIP, CLIP, ViT, DeiT or DINOv2, a folder or a name on the Hub. Without it the video encoder is new.
        audio: AST. Without it the model is video-only, unless `share_encoder` is on.
        text: Llama, SmolLM, Mistral, Qwen2, Qwen3, Granite, Gemma 1 or Phi-3, with its tokenizer.
        output: Folder to write, which must not exist.
        overrides: Values of `MirasolConfig`, as `key=value` or nested: `video_config.num_frames=4`.
        max_chunks: Largest number of chunks of a clip.
        seed: Seed of the new weights.
    """
    folder = Path(output)
    if not str(output) or folder.exists():
        raise ValueError(f"Expected a new folder as output, found {str(output)!r}, which exists. Name another one.")
    if text is None or (vision is None and audio is None):
        raise ValueError(
            f"Expected text and at least one of vision and audio, found text={text}, vision={vision} and "
            f"audio={audio}. Name the language model (it brings the tokenizer) and a tower."
        )
    values = dict(overrides) if isinstance(overrides, dict) else {}
    if not isinstance(overrides, dict):
        apply_overrides(values, overrides)
    reject_unknown_fields(values, what="Config key")
    tower = VisionTower(load_source("vision", str(vision))) if vision else None
    listener = AudioTower(load_source("audio", str(audio))) if audio else None
    language = load_source("text", str(text))
    tokenizer = load_tokenizer(language)
    with values_that_fit():
        config = build_config(values, tower, listener, text_values(language), tokenizer)
    processor = build_processor(config, tower, listener, tokenizer, max_chunks)
    weights = text_weights(language)
    if tower:
        weights |= _under("model.encoder.video_encoder", tower.weights(config.video_config))
    if listener:
        weights |= _under("model.encoder.audio_encoder", listener.weights(config.audio_config))
    torch.manual_seed(seed)
    model = MirasolForConditionalGeneration(config)
    load_weights(model, weights)
    write(model, processor, folder, [str(part) for part in (vision, audio, text) if part])
    num_pretrained = sum(weight.numel() for weight in weights.values())
    return InitResult(
        output=str(folder), vision=str(vision) if vision else None, audio=str(audio) if audio else None,
        text=str(text),
        num_pretrained_parameters=num_pretrained,
        num_new_parameters=sum(parameter.numel() for parameter in model.parameters()) - num_pretrained,
        seconds_per_chunk=config.seconds_per_chunk, video_tokens_per_chunk=config.slot_sizes[0],
        audio_tokens_per_chunk=config.slot_sizes[1],
    )  # fmt: skip


def build_config(
    overrides: dict[str, Any],
    tower: VisionTower | None,
    listener: AudioTower | None,
    text: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
) -> MirasolConfig:
    """Return a config with the parts' sizes and `overrides`; new parts are as wide as the wider tower."""
    given: dict[str, Any] = {
        name: dict(value) if isinstance(value, dict) else value for name, value in overrides.items()
    }
    mine = {name: given.pop(name, {}) for name in MirasolConfig.sub_configs_defaults}
    share = given.get("share_encoder", False)
    if share and listener:
        raise ValueError(
            "Expected no audio checkpoint with share_encoder, because the video encoder then encodes both, found "
            f"{listener.source.name}. Leave out the audio checkpoint, or share_encoder."
        )
    num_frames = mine["video_config"].get("num_frames", MirasolVideoConfig.num_frames)
    num_mel_frames = mine["audio_config"].get("num_mel_frames", MirasolAudioConfig.num_mel_frames)
    video = MirasolVideoConfig(**(tower.values(num_frames) if tower else {}) | mine["video_config"])
    heard = listener.values(num_mel_frames) if listener else {}
    if share:
        heard = {name: getattr(video, name) for name in MirasolTransformerConfig.__annotations__}
    sound = MirasolAudioConfig(**heard | mine["audio_config"])
    use_audio = given.setdefault("use_audio", listener is not None or share)
    wide = max(video, sound, key=lambda config: config.hidden_size) if use_audio else video
    width = {name: getattr(wide, name) for name in ("hidden_size", "num_attention_heads", "intermediate_size")}
    slots = video.num_tokens + use_audio * sound.num_tokens
    small = {
        "predicted_video_size": _divisors(video.input_size, MirasolTemporalConfig.predicted_video_size),
        "predicted_audio_size": _divisors(sound.input_size, MirasolTemporalConfig.predicted_audio_size),
    }
    decided = {
        "seconds_per_chunk": sound.num_mel_frames * SECONDS_PER_MEL_FRAME,
        "tie_word_embeddings": (text | mine["text_config"])["tie_word_embeddings"],
        **special_tokens(tokenizer),
    }
    if clash := sorted(set(decided) & set(given)):
        raise ValueError(
            f"The tokenizer, the language model and the mel frames of a chunk decide {', '.join(clash)}, found "
            f"{clash[0]}={given[clash[0]]}. Leave it out."
        )
    parts = {
        "video_config": video.to_dict(),
        "audio_config": sound.to_dict(),
        "combiner_config": width | {"num_latents": min(MAX_LATENTS, slots)} | mine["combiner_config"],
        "temporal_config": width | small | mine["temporal_config"],
        "text_config": text | mine["text_config"],
    }
    return MirasolConfig(**parts, **given, **decided)


def build_processor(
    config: MirasolConfig,
    tower: VisionTower | None,
    listener: AudioTower | None,
    tokenizer: PreTrainedTokenizerBase,
    max_chunks: int,
) -> MirasolProcessor:
    """Return a processor on the config's grid, with the statistics of the parts."""
    statistics: dict[str, Any] = tower.statistics() if tower else {}
    heard = listener.statistics() if listener else {"num_mel_bins": config.num_mel_bins}
    processor = MirasolProcessor(
        image_processor=MirasolVideoProcessor(image_size=config.image_size, **statistics),
        feature_extractor=MirasolFeatureExtractor(**heard),
        tokenizer=tokenizer,
        **grid_of_chunk(config.num_frames_per_chunk, config.num_mel_frames_per_chunk),
        max_chunks=max_chunks,
    )
    processor.check_model_config(config)
    return processor


def load_weights(model: MirasolForConditionalGeneration, weights: dict[str, Tensor]) -> None:
    """Load the pretrained weights; raise ValueError if one has no parameter of its name and shape."""
    places = model.state_dict()
    for name, weight in weights.items():
        found = tuple(places[name].shape) if name in places else "no such weight"
        if found != tuple(weight.shape):
            raise ValueError(
                f"The pretrained weight {name} has the shape {tuple(weight.shape)}, but this config gives it {found}. "
                "Leave out the override of that part's sizes."
            )
    model.load_state_dict(weights, strict=False)


def write(
    model: MirasolForConditionalGeneration, processor: MirasolProcessor, folder: Path, parts: Sequence[str]
) -> None:
    """Write the checkpoint folder, atomically."""
    with whole_folder(folder) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        (partial / "README.md").write_text(
            "---\nlibrary_name: transformers\npipeline_tag: any-to-any\ntags: [mirasol]\n---\n"
            f"# Mirasol from {', '.join(f'`{part}`' for part in parts)}\n\n"
            "Made by `mirasol init`: the weights of these checkpoints, whose licences apply, and new, untrained "
            "weights between them. Until it is fine-tuned, it ignores the clip and answers like its language model.\n",
            encoding="utf-8",
        )


def _under(place: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{place}.{name}": weight for name, weight in weights.items()}


def _divisors(size: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """Return the largest divisor of each size that is at most the wanted one."""
    return tuple(
        max(n for n in range(1, most + 1) if whole % n == 0) for whole, most in zip(size, wanted, strict=True)
    )
