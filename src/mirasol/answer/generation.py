"""From questions and encoded clips to answers with a confidence; and the checkpoint that gives them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor

from mirasol import DEFAULT_CHECKPOINT
from mirasol.chunks.text import IGNORED_LABEL

MAX_NEW_TOKENS = 48
ROWS_AT_ONCE = 256  # of text, whatever the clips of a batch ask: bounds the memory of the decoder's cache
PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")
MEDIA_INPUTS = (
    "pixel_values_videos",
    "input_features",
    "video_chunk_mask",
    "audio_chunk_mask",
    "chunk_times",
    "video_chunk_index",
    "audio_chunk_index",
)


@dataclass(frozen=True)
class GeneratedAnswer:
    """One greedy answer with the log-probability of its tokens, the closing one included."""

    text: str
    log_likelihood: float
    token_ids: tuple[int, ...]

    @property
    def confidence(self) -> float:
        """exp of the mean log-probability of the tokens: 1 is certain."""
        return math.exp(self.log_likelihood / len(self.token_ids))


def load_checkpoint(checkpoint: str | Path | None = None, device: str | torch.device | None = None) -> tuple[Any, Any]:
    """The model, ready to answer, and its processor: from a folder, or the shipped one.

    Weights stored in bf16 are computed with in float32, which is exact and faster on most CPUs.
    """
    from mirasol import MirasolForConditionalGeneration, MirasolProcessor

    folder = DEFAULT_CHECKPOINT if checkpoint is None else Path(checkpoint)
    check_checkpoint(folder)
    transformers.utils.logging.disable_progress_bar()  # nano loads in a tenth of a second
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model, loaded = MirasolForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except SafetensorError as error:
        raise ValueError(
            f"Expected whole weights in {folder}, found a file that is cut off or no safetensors ({error}). "
            "Copy the folder again."
        ) from error
    # transformers would draw these weights at random or leave them out, with no more than a warning.
    resized = {str(entry[0]) for entry in loaded["mismatched_keys"]}
    if wrong := sorted({*loaded["missing_keys"], *loaded["unexpected_keys"], *resized}):
        raise ValueError(
            f"Expected in {folder} just the weights that its config.json describes, found {len(wrong)} missing, "
            f"unknown or of another shape, such as {wrong[0]}. Take config.json and weights of the same save."
        )
    processor = MirasolProcessor.from_pretrained(folder)
    processor.check_model_config(model.config)
    return model.to(device).eval(), processor


def check_checkpoint(folder: Path) -> dict:
    """The folder's config as a dict, or an error that says why this is not a Mirasol checkpoint."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(
            f"Expected a checkpoint folder with config.json at {folder}, found "
            f"{'a folder without it' if folder.is_dir() else 'a file' if folder.exists() else 'nothing'}. "
            "Pass a folder written by `mirasol train` (its `best`) or by save_pretrained, or none for the shipped one."
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"Expected JSON in {config_file}, found text that is not ({error}). Write the folder anew."
        ) from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != "mirasol":
        raise ValueError(
            f"Expected a checkpoint of model_type 'mirasol' in {folder}, found {model_type!r}. Mirasol "
            "cannot run other architectures: pass a folder written by `mirasol train`."
        )
    if absent := [name for name in PROCESSOR_FILES if not (folder / name).is_file()]:
        raise ValueError(
            f"Expected the processor's files beside the weights in {folder}, found no {' and no '.join(absent)}. Copy "
            "the whole folder, or save the processor into it."
        )
    return config


def split_inputs(inputs: Mapping, device: torch.device) -> tuple[dict, dict]:
    """(media, text): what the encoder takes and what the decoder takes, on the device."""
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    media = {name: moved[name] for name in MEDIA_INPUTS if moved.get(name) is not None}
    text = {name: moved[name] for name in ("decoder_input_ids", "decoder_attention_mask", "labels") if name in moved}
    return media, text


@torch.no_grad()
def generate_answers(
    model, processor, encoder_outputs, text: dict, max_new_tokens: int | None = None
) -> list[GeneratedAnswer]:
    """One greedy answer per row of questions; the clips are encoded already, each for all its questions.

    An answer has at most `max_new_tokens`, by default the number in the checkpoint's generation config, else 48.
    """
    wanted = max_new_tokens or model.generation_config.max_new_tokens or MAX_NEW_TOKENS
    room = model.config.text_config.max_position_embeddings - text["decoder_input_ids"].shape[1]
    output = model.generate(
        decoder_input_ids=text["decoder_input_ids"],
        decoder_attention_mask=text["decoder_attention_mask"],
        encoder_outputs=encoder_outputs,
        max_new_tokens=max(1, min(wanted, room)),
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
    )
    new_ids = output.sequences[:, text["decoder_input_ids"].shape[1] :]
    counted = up_to_end(new_ids, model.config.eos_token_id)
    labels = new_ids.masked_fill(~counted, IGNORED_LABEL)
    log_likelihoods = label_log_probabilities(torch.stack(output.logits, dim=1), labels).sum(1)
    return [
        GeneratedAnswer(processor.decode_answer(ids), value, tuple(ids[is_counted].tolist()))
        for ids, value, is_counted in zip(new_ids, log_likelihoods.tolist(), counted, strict=True)
    ]


def with_answers(text: dict, given: Sequence[GeneratedAnswer]) -> dict:
    """The prompts followed by the tokens that were generated, with labels, to look at what the answers rest on."""
    prompt, mask = text["decoder_input_ids"], text["decoder_attention_mask"]
    labels = prompt.new_full((len(given), max(len(answer.token_ids) for answer in given)), IGNORED_LABEL)
    for row, answer in enumerate(given):
        labels[row, : len(answer.token_ids)] = labels.new_tensor(answer.token_ids)
    before = prompt.new_full((len(given), prompt.shape[1] - 1), IGNORED_LABEL)
    answered = torch.cat([prompt, labels[:, :-1].clamp(min=0)], dim=1)
    return {
        "decoder_input_ids": answered,
        "decoder_attention_mask": torch.cat([mask, torch.ones_like(labels[:, :-1])], dim=1),
        "labels": torch.cat([before, labels], dim=1),
    }


def up_to_end(
    new_ids: Int[Tensor, "row token"], eos_token_id: int | Sequence[int] | None
) -> Bool[Tensor, "row token"]:
    """Which generated tokens belong to the answer: those up to and including the first end of sequence."""
    ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or [])
    is_end = torch.isin(new_ids, new_ids.new_tensor(ends))
    return is_end.cumsum(1) - is_end.long() == 0


def label_log_probabilities(
    logits: Float[Tensor, "row token vocab"], labels: Int[Tensor, "row token"]
) -> Float[Tensor, "row token"]:
    """Log-probability of each label under the logits at its place, 0 where the label is ignored."""
    picked = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return picked.masked_fill(labels == IGNORED_LABEL, 0.0)


def rounds(counts: Sequence[int], rows_at_once: int = ROWS_AT_ONCE) -> Iterator[tuple[list[int], range]]:
    """Yields which clips take part and which of their rows of text, until every clip has had its `counts` rows.

    A round has equally many rows for each of its clips (a clip that has fewer left repeats its last one) and, with
    more than one row a clip, at most `rows_at_once` in all.
    """
    first = 0
    while clips := [clip for clip, count in enumerate(counts) if count > first]:
        last = min(first + max(1, rows_at_once // len(clips)), max(counts))
        yield clips, range(first, last)
        first = last


def of_clips(encoder_outputs, clips: Sequence[int]):
    """What the encoder gave for these clips of its batch; the same object, not a copy, where these are all."""
    if len(clips) == len(encoder_outputs.chunk_mask):
        return encoder_outputs
    return type(encoder_outputs)(**{name: value[list(clips)] for name, value in encoder_outputs.items()})
