"""`mirasol info`: what a clip or a checkpoint folder holds, before anything is computed with it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mirasol import DEFAULT_CHECKPOINT
from mirasol.evaluate.generation import check_checkpoint
from mirasol.media import probe


@dataclass(frozen=True)
class Info:
    """Facts by name, in the order in which they are printed."""

    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The facts, for JSON."""
        return self.facts

    def __str__(self) -> str:
        return "\n".join(_lines(self.facts))


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    width = max((len(name) for name in facts), default=0) + 2
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            text = ", ".join(map(str, value)) if isinstance(value, list) else text
            lines.append(f"{indent}{name:{width}s}{text}")
    return lines


def info(path: str | Path) -> Info:
    """Facts about a checkpoint if `path` is a folder (or "default": the shipped one), else about a clip."""
    if str(path) == "default":
        path = DEFAULT_CHECKPOINT
    return checkpoint_info(Path(path)) if Path(path).is_dir() else clip_info(path)


def clip_info(path: str | Path) -> Info:
    """Tracks, seconds and rates of a file, and how it falls on the shipped checkpoint's time grid."""
    media = {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(probe(path)).items()
    }
    video_names = (
        "video_codec",
        "width",
        "height",
        "rotation",
        "frame_rate",
        "num_frames",
        "video_start",
        "video_end",
    )
    audio_names = ("audio_codec", "audio_sampling_rate", "audio_channels", "audio_start", "audio_end")
    facts: dict[str, Any] = {
        "clip": str(path),
        "container": media["container"],
        "seconds": media["duration_seconds"],
        "picture": {name: media[name] for name in video_names} if media["has_video"] else "not found",
        "sound": {name: media[name] for name in audio_names} if media["has_audio"] else "not found",
    }
    facts["chunks"] = _chunks(media["duration_seconds"])
    return Info(facts)


def _chunks(duration: float) -> dict[str, Any]:
    from mirasol import MirasolProcessor
    from mirasol.chunks.time_grid import TimeGrid

    shipped = (DEFAULT_CHECKPOINT / "config.json").is_file()
    grid = MirasolProcessor.from_pretrained(DEFAULT_CHECKPOINT).grid if shipped else TimeGrid()
    plan = grid.plan(duration)
    return {
        "grid": f"{'the shipped checkpoint' if shipped else 'default'}: {grid.frames_per_second:g} frames a second",
        "num_chunks": len(plan.starts),
        "seconds_per_chunk": round(plan.seconds_per_chunk, 4),
        "seconds_per_chunk_native": round(grid.seconds_per_chunk, 4),
        "max_chunks": grid.max_chunks,
    }


def checkpoint_info(folder: Path) -> Info:
    """Parameters by part, the time grid, tokens of a chunk and the share of every frame that a video token sees."""
    from mirasol import MirasolConfig, MirasolForConditionalGeneration, MirasolProcessor
    from mirasol.model.modeling_mirasol_encoders import covered_area

    check_checkpoint(folder)
    config, processor = MirasolConfig.from_pretrained(folder), MirasolProcessor.from_pretrained(folder)
    with torch.device("meta"):
        model = MirasolForConditionalGeneration(config)
    grid = processor.grid
    files = sorted(folder.glob("*.safetensors"))
    return Info(
        {
            "checkpoint": str(folder),
            "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 2),
            "parameters": parameters_by_part(model),
            "grid": {
                "frames_per_second": grid.frames_per_second,
                "seconds_per_chunk": round(grid.seconds_per_chunk, 4),
                "frames_per_chunk": grid.num_frames_per_chunk,
                "mel_columns_per_chunk": grid.num_mel_frames_per_chunk,
                "max_chunks": grid.max_chunks,
            },
            "picture_size": config.image_size,
            "tokens_per_chunk": {
                "video": config.video_config.num_tokens,
                "audio": config.audio_config.num_tokens,
                "latents": config.num_latents,
            },
            "area_seen_per_frame": [f"{100 * share:.0f} %" for share in covered_area(config.video_config)],
            "context_tokens": config.text_config.max_position_embeddings,
            "vocabulary": config.text_config.vocab_size,
        }
    )


def parameters_by_part(model: torch.nn.Module) -> dict[str, int]:
    """Number of parameters of every part (shared ones counted once), largest first, and in total."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parts = name.removeprefix("model.").split(".")
        part = ".".join(parts[:2]) if parts[0] == "encoder" and len(parts) > 2 else parts[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return {"total": sum(counts.values()), **dict(sorted(counts.items(), key=lambda item: -item[1]))}
