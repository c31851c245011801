"""Clips of different length -> one padded batch, with the indices of the real chunks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mirasol.chunks.text import IGNORED_LABEL, pad_text

CHUNK_INPUTS = ("pixel_values_videos", "input_features", "video_chunk_mask", "audio_chunk_mask", "chunk_times")


def pad_chunks(clips: Sequence[Mapping[str, Tensor]], num_chunks: int | None = None) -> dict[str, Tensor]:
    """Pad the chunk inputs of clips to a batch, `[batch chunk ...]`; padding is zero and masked.

    Args:
        clips: Results of `MirasolProcessor.chunk_clip`.
        num_chunks: Length to pad to; by default that of the longest clip.
    """
    longest = max(len(clip["chunk_times"]) for clip in clips)
    missing = 0 if num_chunks is None else num_chunks - longest
    if missing < 0:
        raise ValueError(
            f"Clips must fit into num_chunks={num_chunks}, but one has {longest} chunks: raise num_chunks, or pass a "
            "smaller max_chunks."
        )
    if len(clips) == 1:
        padded = {name: rearrange(clips[0][name], "... -> 1 ...") for name in CHUNK_INPUTS}
    else:
        padded = {name: pad_sequence([clip[name] for clip in clips], batch_first=True) for name in CHUNK_INPUTS}
    if missing:
        padded = {
            name: torch.cat([value, value.new_zeros(len(value), missing, *value.shape[2:])], dim=1)
            for name, value in padded.items()
        }
    return padded


class MirasolCollator:
    """Joins items of a data set into the inputs of one training step.

    An item holds the results of `MirasolProcessor.chunk_clip` for one clip and of `tokenize_questions` for its
    questions. All items have equally many questions, or none: a blank item gets rows of text whose labels are ignored.
    Rows of text are grouped by clip, so that all questions of a clip share one encoding. `video_chunk_index` and
    `audio_chunk_index` are the indices of the real chunks on the flattened (batch chunk) axis; the encoders compute
    only these. `skipped` lists the clips that could not be decoded; the trainer removes it.

    Args:
        pad_token_id: Fills the text of shorter questions: `MirasolProcessor.pad_token_id`.
        prompts: Adds the questions without answers as `prompt_ids` and `prompt_attention_mask`, from which
            `Seq2SeqTrainer(predict_with_generate=True)` generates: it takes `decoder_input_ids` away.
    """

    def __init__(self, pad_token_id: int, prompts: bool = False):
        self.pad_token_id = pad_token_id
        self.prompts = prompts

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The padded batch with its packing indices."""
        batch: dict[str, Any] = pad_chunks(items)
        if skipped := [item["skipped"] for item in items if "skipped" in item]:
            batch["skipped"] = skipped
        for modality in ("video", "audio"):
            real = rearrange(batch[f"{modality}_chunk_mask"], "batch chunk -> (batch chunk)")
            batch[f"{modality}_chunk_index"] = rearrange(real.nonzero(), "index 1 -> index")
        if "decoder_input_ids" not in items[0]:
            return batch
        counts = sorted({len(item["decoder_input_ids"]) for item in items} - {0}) or [1]
        if len(counts) > 1:
            raise ValueError(
                f"Every clip of a batch must have equally many questions, but these have {counts}: "
                "ask each clip the same number, or use a batch size of 1."
            )
        names = [name for name in ("decoder_input_ids", "labels") if name in items[0]]
        blank = {"decoder_input_ids": [[self.pad_token_id]] * counts[0], "labels": [[IGNORED_LABEL]] * counts[0]}
        rows = {name: [row for item in items for row in item[name] or blank[name]] for name in names}
        batch |= pad_text(rows, self.pad_token_id)
        if self.prompts and "labels" in rows:
            counted = [sum(label != IGNORED_LABEL for label in labels) for labels in rows["labels"]]
            answers = [max(count - 1, 0) for count in counted]  # without the end
            ids = [row[: len(row) - count] for row, count in zip(rows["decoder_input_ids"], answers, strict=True)]
            for name, values in pad_text({"decoder_input_ids": ids}, self.pad_token_id).items():
                batch[name.replace("decoder_input", "prompt").replace("decoder", "prompt")] = values
        return batch
