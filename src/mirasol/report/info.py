"""`mirasol info`: what a clip, a checkpoint folder or a preset holds, before anything is computed with it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirasol import DEFAULT_CHECKPOINT
from mirasol.answer.checkpoint import check_checkpoint
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
            text = _number(value) if isinstance(value, int) and not isinstance(value, bool) else value
            text = ", ".join(map(str, value)) if isinstance(value, list) else text
            lines.append(f"{indent}{name:{width}s}{text}")
    return lines


def _number(value: int) -> str:
    short = next((f" ({value / size:.3g} {unit})" for size, unit in ((1e12, "T"), (1e9, "G")) if value >= size), "")
    return f"{value:,}{short}"


def info(path: str | Path) -> Info:
    """Facts about a checkpoint if `path` is a folder (or "default": the shipped one), about a preset if it is the name
    of one, else about a clip."""
    from mirasol.model.presets import PRESETS

    if str(path) == "default":
        path = DEFAULT_CHECKPOINT
    if str(path) in PRESETS and not Path(path).exists():
        from mirasol.model.sizes import size_facts

        return Info(size_facts(str(path)))
    return checkpoint_info(Path(path)) if Path(path).is_dir() else clip_info(path)


def clip_info(path: str | Path) -> Info:
    """Tracks, seconds and rates of a file, and how it falls on the shipped checkpoint's time grid."""
    media = {name: round(v, 3) if isinstance(v, float) else v for name, v in dataclasses.asdict(probe(path)).items()}

    def track(kind: str, names: str) -> Any:
        return {name: media[name] for name in names.split()} if media[f"has_{kind}"] else "not found"

    return Info(
        {
            "clip": str(path),
            "container": media["container"],
            "seconds": media["duration_seconds"],
            "picture": track("video", "video_codec width height rotation frame_rate num_frames video_start video_end"),
            "sound": track("audio", "audio_codec audio_sampling_rate audio_channels audio_start audio_end"),
            "chunks": _chunks(media["duration_seconds"]),
        }
    )


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
    from mirasol import MirasolConfig, MirasolProcessor
    from mirasol.model.modeling_mirasol_encoders import covered_area
    from mirasol.model.sizes import build, parameters_by_part, tokens_per_chunk

    check_checkpoint(folder)
    config, processor = MirasolConfig.from_pretrained(folder), MirasolProcessor.from_pretrained(folder)
    grid = processor.grid
    files = sorted(folder.glob("*.safetensors"))
    return Info(
        {
            "checkpoint": str(folder),
            "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 2),
            "parameters": parameters_by_part(build(config)),
            "grid": {
                "frames_per_second": grid.frames_per_second,
                "seconds_per_chunk": round(grid.seconds_per_chunk, 4),
                "frames_per_chunk": grid.num_frames_per_chunk,
                "mel_columns_per_chunk": grid.num_mel_frames_per_chunk,
                "max_chunks": grid.max_chunks,
            },
            "picture_size": config.image_size,
            "looks_at": dict(zip(("side", "center_x", "center_y"), processor.image_processor.crop, strict=True)),
            "tokens_per_chunk": tokens_per_chunk(config),
            "area_seen_per_frame": [f"{100 * share:.0f} %" for share in covered_area(config.video_config)],
            "context_tokens": config.text_config.max_position_embeddings,
            "vocabulary": config.text_config.vocab_size,
        }
    )
