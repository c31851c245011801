"""`mirasol info`: facts about a clip, a checkpoint folder or a preset."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mirasol import DEFAULT_CHECKPOINT
from mirasol.answer.checkpoint import SHIPPED, check_checkpoint
from mirasol.answer.known_questions import KnownQuestions
from mirasol.media import MediaInfo, probe
from mirasol.results import Document, Result


class Info(Document):
    """Facts, printed in the order of the fields."""

    def __str__(self) -> str:
        return "\n".join(_lines(self.model_dump(exclude={"schema_version"})))


class Picture(Result):
    """The picture track; sizes are as displayed (square pixels, upright), times in seconds."""

    video_codec: str | None
    width: int | None
    height: int | None
    pixel_aspect: float
    rotation: int
    frame_rate: float | None
    num_frames: int | None
    video_start: float | None
    video_end: float | None


class Sound(Result):
    """The sound track; times in seconds."""

    audio_codec: str | None
    audio_sampling_rate: int | None
    audio_channels: int | None
    audio_start: float | None
    audio_end: float | None


class Chunks(Result):
    """Chunks of a clip on a time grid."""

    grid: str
    num_chunks: int
    seconds_per_chunk: float
    seconds_per_chunk_native: float
    max_chunks: int


class ClipInfo(Info):
    """A media file; an absent track is None."""

    clip: str
    container: str
    seconds: float
    picture: Picture | None
    sound: Sound | None
    chunks: Chunks
    warnings: list[str] = []


class Grid(Result):
    """The time grid of a checkpoint."""

    frames_per_second: float
    seconds_per_chunk: float
    frames_per_chunk: int
    mel_columns_per_chunk: int
    max_chunks: int


class Look(Result):
    """Square crop that a checkpoint sees, as fractions of the frame."""

    side: float
    center_x: float
    center_y: float


class CheckpointInfo(Info):
    """A checkpoint; `area_seen_per_frame` is the share of each frame that the video tokens cover.

    `known_questions` are the training questions with counts and frequent answers, None if none are stored.
    """

    checkpoint: str
    megabytes: float
    parameters: dict[str, int]
    grid: Grid
    picture_size: int
    looks_at: Look
    tokens_per_chunk: dict[str, int]
    area_seen_per_frame: list[str]
    context_tokens: int
    vocabulary: int
    known_questions: dict[str, str] | None = None


class PresetInfo(Info):
    """A preset, see `mirasol.model.sizes.size_facts`; FLOPs of a forward pass by the number of frames."""

    preset: str
    parameters: dict[str, int | dict[str, int]]
    forward_flops: dict[str, int]
    latents: dict[str, int]
    tokens_per_chunk: dict[str, int]
    area_seen_per_frame: list[float]
    text_tokens: int
    bytes_in_bf16: dict[str, int | dict[str, int]]


def _lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    width = max((len(name) for name in facts), default=0) + 2
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            text = _number(value) if isinstance(value, int) else "not found" if value is None else value
            text = ", ".join(map(str, value)) if isinstance(value, list) else text
            lines.append(f"{indent}{name:{width}s}{text}")
    return lines


def _number(value: int) -> str:
    short = next((f" ({value / size:.3g} {unit})" for size, unit in ((1e12, "T"), (1e9, "G")) if value >= size), "")
    return f"{value:,}{short}"


def info(path: str | Path) -> Info:
    """Return facts about a checkpoint (a folder or "shipped"), a preset (its name), or else a clip."""
    from mirasol.model.presets import PRESETS

    if str(path) in ("default", SHIPPED):
        path = DEFAULT_CHECKPOINT
    if str(path) in PRESETS and not Path(path).exists():
        from mirasol.model.sizes import size_facts

        return PresetInfo(**size_facts(str(path)))
    if not Path(path).exists() and (near := get_close_matches(str(path), [*PRESETS, SHIPPED], n=1)):
        known = ", ".join([*PRESETS, SHIPPED])
        raise ValueError(f"Expected a file, a folder or one of {known}, found {path}. Did you mean {near[0]!r}?")
    return checkpoint_info(Path(path)) if Path(path).is_dir() else clip_info(path)


def clip_info(path: str | Path) -> ClipInfo:
    """Return the tracks of a file, with times and rates, and its chunks on the shipped checkpoint's time grid."""
    media = probe(path)
    return ClipInfo(
        clip=str(path),
        container=media.container,
        seconds=round(media.duration_seconds, 3),
        picture=Picture(**_fields_of(Picture, media)) if media.has_video else None,
        sound=Sound(**_fields_of(Sound, media)) if media.has_audio else None,
        chunks=_chunks(media.duration_seconds),
        warnings=media.warnings,
    )


def _fields_of(kind: type[Result], media: MediaInfo) -> dict[str, Any]:
    values = {name: getattr(media, name) for name in kind.model_fields}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


def _chunks(duration: float) -> Chunks:
    from mirasol import MirasolProcessor
    from mirasol.chunks.time_grid import TimeGrid

    shipped = (DEFAULT_CHECKPOINT / "config.json").is_file()
    grid = MirasolProcessor.from_pretrained(DEFAULT_CHECKPOINT).grid if shipped else TimeGrid()
    plan = grid.plan(duration)
    return Chunks(
        grid=f"{'the shipped checkpoint' if shipped else 'default'}: {grid.frames_per_second:g} frames a second",
        num_chunks=len(plan.starts),
        seconds_per_chunk=round(plan.seconds_per_chunk, 4),
        seconds_per_chunk_native=round(grid.seconds_per_chunk, 4),
        max_chunks=grid.max_chunks,
    )


def checkpoint_info(folder: Path) -> CheckpointInfo:
    """Return parameters by part, the time grid, tokens per chunk and the covered share of every frame."""
    from mirasol import MirasolConfig, MirasolProcessor
    from mirasol.model.modeling_mirasol_encoders import covered_area
    from mirasol.model.sizes import build, parameters_by_part, tokens_per_chunk

    check_checkpoint(folder)
    config, processor = MirasolConfig.from_pretrained(folder), MirasolProcessor.from_pretrained(folder)
    grid = processor.grid
    side, center_x, center_y = processor.image_processor.crop
    known = KnownQuestions.load(folder)
    return CheckpointInfo(
        checkpoint=str(folder),
        megabytes=round(sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6, 2),
        parameters=parameters_by_part(build(config)),
        grid=Grid(
            frames_per_second=grid.frames_per_second,
            seconds_per_chunk=round(grid.seconds_per_chunk, 4),
            frames_per_chunk=grid.num_frames_per_chunk,
            mel_columns_per_chunk=grid.num_mel_frames_per_chunk,
            max_chunks=grid.max_chunks,
        ),
        picture_size=config.image_size,
        looks_at=Look(side=side, center_x=center_x, center_y=center_y),
        tokens_per_chunk=tokens_per_chunk(config),
        area_seen_per_frame=[f"{100 * share:.0f} %" for share in covered_area(config.video_config)],
        context_tokens=processor.tokenizer.model_max_length,  # what questions are checked against
        vocabulary=config.text_config.vocab_size,
        known_questions=None
        if known is None
        else {asked.text: f"{asked.count:,} times: {', '.join(asked.answers)}" for asked in known.questions},
    )
