"""Preview sheet of own clips: the frames, in their crop, and the spectrogram that a model gets of each clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from tqdm import tqdm

from mirasol.chunks import MirasolProcessor
from mirasol.data.check import Checked, check, load_splits
from mirasol.files import write_whole
from mirasol.report import drawing
from mirasol.report.page import render
from mirasol.tasks import Row, segment_of
from mirasol.train.build import build_processor, training_questions
from mirasol.train.recipe import load_recipe
from mirasol.train.resolve import changed_processor, resolve, saved_processor

MAX_FRAMES = 10


def check_with_sheet(
    source: str,
    recipe: str | None = None,
    checkpoint: str | None = None,
    sheet: str | None = None,
    sheet_clips: int = 12,
    **options: Any,
) -> Checked:
    """Check a source against the processor of a recipe or checkpoint, and write the preview sheet if it has a path.

    Args:
        source: A manifest of any kind.
        recipe: Recipe with the time grid, crop and context to check against.
        checkpoint: Checkpoint to check against instead of a recipe.
        sheet: Path of the page.
        sheet_clips: Number of clips of each split on the page, evenly spaced.
        **options: Arguments of `mirasol.data.check.check`.
    """
    rows = load_splits(source, options.get("split"), options.get("columns"), options.get("question"))
    processor = None
    if recipe or checkpoint or sheet:
        processor = processor_of(recipe, checkpoint, [row for of_split in rows.values() for row in of_split])
    result = check(source, processor=processor, **options)
    if sheet is None or processor is None:
        return result
    shown = [
        of_split[number]
        for of_split in rows.values()
        for number in np.unique(np.linspace(0, len(of_split) - 1, min(sheet_clips, len(of_split))).round()).astype(int)
    ]
    return result.model_copy(update={"sheet": write_sheet(shown, processor, sheet, source)})


def processor_of(recipe_path: str | None, checkpoint: str | None, rows: Sequence[Row]) -> MirasolProcessor:
    """Return the processor that a recipe trains with, or that of a checkpoint.

    Args:
        recipe_path: A recipe; a new tokenizer is trained on the texts of `rows`.
        checkpoint: A checkpoint, if there is no recipe; by default the shipped one.
        rows: Clips of the source.
    """
    if recipe_path is None:
        from mirasol import DEFAULT_CHECKPOINT

        return saved_processor(str(checkpoint or DEFAULT_CHECKPOINT))
    recipe = resolve(load_recipe(recipe_path))
    if recipe.model.checkpoint is not None:
        return changed_processor(saved_processor(recipe.model.checkpoint), recipe.processor)
    texts = [f"{asked}\n{answer}" for _, asked, answer in training_questions(recipe, "jsonl", rows)]
    return build_processor(recipe, texts)


def write_sheet(rows: Sequence[Row], processor: MirasolProcessor, output: str | Path, title: str) -> str:
    """Write the page with the clips of these rows and return its path; an unreadable clip has its error."""
    clips = [_shown(row, processor) for row in tqdm(rows, "drawing", unit="clip", disable=None)]
    image = processor.image_processor
    facts = {
        "picture": f"{image.image_size} px, {image.crop_fraction:.0%} of the shorter side around "
        f"{image.crop_center[0]:g}, {image.crop_center[1]:g}",
        "time": f"{processor.grid.frames_per_second:g} frames a second, at most {processor.grid.max_chunks} chunks of "
        f"{processor.grid.seconds_per_chunk:g} s",
    }
    page = render("sheet.html", title=title, clips=clips, facts=facts, checkpoint="none, before training")
    write_whole(Path(output), page)
    return str(output)


def _shown(row: Row, processor: MirasolProcessor) -> dict:
    questions = [(question.text, question.answer) for question in row.questions]
    shown = {"id": row.id, "file": row.media.name, "questions": questions, "frames": [], "mel": "", "note": ""}
    try:
        clip = processor.read_clip(row.media, crop=row.crop, warn=False, **segment_of(row))
        inputs, report = processor.chunk_and_describe(clip)
    except (ValueError, OSError) as error:
        return shown | {"note": str(error)}
    shown["note"] = "; ".join([f"{clip.duration:.2f} s, {len(inputs['chunk_times'])} chunks", *report.warnings])
    real = inputs["video_chunk_mask"]
    if real.any():
        frames = rearrange(inputs["pixel_values_videos"][real], "chunk frame ... -> (chunk frame) ...")
        chosen = frames[np.linspace(0, len(frames) - 1, min(MAX_FRAMES, len(frames))).round()]
        mean, std = (
            rearrange(torch.tensor(values), "channel -> 1 channel 1 1")
            for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
        )
        pixels = ((chosen * std + mean) * 255).round().clamp(0, 255).byte()
        shown["frames"] = [drawing.image_uri(image) for image in rearrange(pixels, "f c h w -> f h w c").numpy()]
    if inputs["audio_chunk_mask"].any():
        mel = rearrange(inputs["input_features"], "chunk mel_frame mel -> (chunk mel_frame) mel").numpy()
        shown["mel"] = drawing.spectrogram_uri(mel)
    return shown
