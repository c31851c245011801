"""Tokenised questions and encoded clips -> greedy answers with their log-probabilities."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from mirasol.chunks.text import IGNORED_LABEL

ROWS_AT_ONCE = 256  # text rows per call, to bound the memory of the decoder's cache


@dataclass(frozen=True)
class GeneratedAnswer:
    """One greedy answer with the log-probability of its tokens, the end token included.

    `is_cut`: the answer reached the token limit before an end token. `calibrated`: the log-probability under the
    checkpoint's temperature, if it has one.
    """

    text: str
    log_likelihood: float
    token_ids: tuple[int, ...]
    is_cut: bool = False
    calibrated: float | None = None

    @property
    def confidence(self) -> float:
        """exp of the mean log-probability of the tokens, calibrated if the checkpoint has a temperature."""
        total = self.log_likelihood if self.calibrated is None else self.calibrated
        return math.exp(total / len(self.token_ids))


def generate_answers(
    model,
    processor,
    encoder_outputs,
    text: Mapping[str, Tensor],
    max_new_tokens: int | None = None,
    streamer: Any = None,
    temperature: float = 1.0,
) -> list[GeneratedAnswer]:
    """Generate one greedy answer per text row about encoded clips.

    The limit of new tokens is `max_new_tokens`, else the generation config's, else the context minus the longest
    question.
    """
    width = text["decoder_input_ids"].shape[1]
    recorder = _GreedyLogProbabilities([1.0] if temperature == 1 else [1.0, temperature])
    sequences = model.generate(
        decoder_input_ids=text["decoder_input_ids"],
        decoder_attention_mask=text["decoder_attention_mask"],
        encoder_outputs=encoder_outputs,
        max_new_tokens=token_limit(model, processor, width, max_new_tokens),
        do_sample=False,
        num_beams=1,
        logits_processor=LogitsProcessorList([recorder]),
        streamer=streamer,
    )
    new_ids = sequences[:, width:]
    ends = end_tokens(new_ids, model.config.eos_token_id)
    counted = ends.cumsum(1) - ends.long() == 0  # up to and including the first end token
    sums = torch.stack(recorder.steps, dim=-1).masked_fill(~counted, 0.0).sum(-1)
    rows = zip(new_ids, counted, ends.any(1).tolist(), sums[0].tolist(), sums[-1].tolist(), strict=True)
    return [
        GeneratedAnswer(processor.decode_answer(ids), total, tuple(ids[is_counted].tolist()), not has_end, calibrated)
        for ids, is_counted, has_end, total, calibrated in rows
    ]


class _GreedyLogProbabilities(LogitsProcessor):
    """Records the log-probability of each greedy token under each temperature, so that no step's logits are kept."""

    def __init__(self, temperatures: Sequence[float]):
        self.temperatures, self.steps = temperatures, list[Tensor]()

    def __call__(self, input_ids: Int[Tensor, "row token"], scores: Float[Tensor, "row vocab"]) -> Tensor:
        best = scores.argmax(-1, keepdim=True)
        values = [(scores / value).log_softmax(-1).gather(-1, best)[:, 0] for value in self.temperatures]
        self.steps.append(torch.stack(values))  # [temperature row]
        return scores


def token_limit(model, processor, prompt_length: int, max_new_tokens: int | None = None) -> int:
    """Return the limit of new tokens for a prompt of this length; the context is the tokenizer's, as in training."""
    context = min(processor.tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    room = max(1, context - prompt_length)
    return min(max_new_tokens or model.generation_config.max_new_tokens or room, room)


def with_answers(text: Mapping[str, Tensor], given: Sequence[GeneratedAnswer]) -> dict[str, Tensor]:
    """Append the generated tokens to the prompts; the labels cover only these tokens."""
    prompt, mask = text["decoder_input_ids"], text["decoder_attention_mask"]
    labels = prompt.new_full((len(given), max(len(answer.token_ids) for answer in given)), IGNORED_LABEL)
    for row, answer in enumerate(given):
        labels[row, : len(answer.token_ids)] = labels.new_tensor(answer.token_ids)
    before = prompt.new_full((len(given), prompt.shape[1] - 1), IGNORED_LABEL)
    return {
        "decoder_input_ids": torch.cat([prompt, labels[:, :-1].clamp(min=0)], dim=1),
        "decoder_attention_mask": torch.cat([mask, torch.ones_like(labels[:, :-1])], dim=1),
        "labels": torch.cat([before, labels], dim=1),
    }


def end_tokens(
    new_ids: Int[Tensor, "row token"], eos_token_id: int | Sequence[int] | None
) -> Bool[Tensor, "row token"]:
    """Return a mask of the end tokens."""
    ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or [])
    return torch.isin(new_ids, new_ids.new_tensor(ends))


def label_log_probabilities(
    logits: Float[Tensor, "row token vocab"], labels: Int[Tensor, "row token"]
) -> Float[Tensor, "row token"]:
    """Return the log-probability of each label under its logits, 0 where the label is ignored."""
    picked = logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return picked.masked_fill(labels == IGNORED_LABEL, 0.0)


def rounds(counts: Sequence[int], rows_at_once: int = ROWS_AT_ONCE) -> Iterator[tuple[list[int], range]]:
    """Split the text rows of clips, `counts` of each, into batches; yield the clips and row numbers of each batch.

    A batch has equally many rows of each of its clips (a clip with fewer rows repeats its last one) and at most
    `rows_at_once` rows, but at least one per clip.
    """
    first = 0
    while clips := [clip for clip, count in enumerate(counts) if count > first]:
        last = min(first + max(1, rows_at_once // len(clips)), max(counts))
        yield clips, range(first, last)
        first = last


def of_clips(encoder_outputs, clips: Sequence[int]):
    """Return the encoder outputs of these clips, without a copy if these are all clips."""
    if len(clips) == len(encoder_outputs.chunk_mask):
        return encoder_outputs
    return type(encoder_outputs)(**{name: value[list(clips)] for name, value in encoder_outputs.items()})
