"""Likelihood of given options, for multiple choice and class lists."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from mirasol.answer.generation import ROWS_AT_ONCE, GeneratedAnswer, label_log_probabilities, of_clips, rounds
from mirasol.chunks.text import IGNORED_LABEL, TokenRows, pad_text

LOGITS_AT_ONCE = 2**26  # values per call: with a vocabulary of 150,000, fewer text rows fit into memory


@dataclass(frozen=True)
class Ranking:
    """Log-likelihood of each option of one question, in the question's order.

    `log_probabilities` are sums over the `num_tokens` tokens of an option, the end token included. The mean per token
    (`per_token`) does not favour short options.
    """

    options: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    num_tokens: tuple[int, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """The probability of each option if exactly one is right: the softmax over the different options."""
        largest = max(self.log_probabilities)
        weights = [math.exp(value - largest) for value in self.log_probabilities]
        total = math.fsum(dict(zip(self.options, weights, strict=True)).values())
        return tuple(weight / total for weight in weights)

    @property
    def confidence(self) -> float:
        """The share of the likeliest option."""
        return max(self.shares)

    @property
    def per_token(self) -> tuple[float, ...]:
        """The mean log-probability of each option's tokens."""
        return tuple(total / count for total, count in zip(self.log_probabilities, self.num_tokens, strict=True))

    def best(self, count: int, per_token: bool = False) -> list[str]:
        """Return the `count` likeliest options, likeliest first; ties in the question's order."""
        scores = self.per_token if per_token else self.log_probabilities
        return [self.options[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i])[:count]]


def refusal(given: Sequence[GeneratedAnswer] | Sequence[Ranking]) -> str | None:
    """Return the reason to reject these answers: a log-probability that is not finite."""
    values: list[float] = []
    for one in given:
        values += one.log_probabilities if isinstance(one, Ranking) else [one.log_likelihood]
    if wrong := sum(not math.isfinite(value) for value in values):
        return (
            f"Expected finite log-probabilities of the answers, found {wrong} of {len(values)} that are not: check "
            "clip and weights for NaN and infinity."
        )
    return None


def require_finite(given: Sequence[GeneratedAnswer] | Sequence[Ranking]) -> None:
    """Raise ValueError for answers that `refusal` rejects."""
    if why := refusal(given):
        raise ValueError(why)


def score_rows(
    model, encoder_outputs, tokens: Sequence[TokenRows], pad_token_id: int, rows_at_once: int | None = None
) -> list[list[tuple[float, bool]]]:
    """Return each row's log-probability and whether greedy decoding would generate it, as a list per clip.

    The rows of a clip share its latents; at most `rows_at_once` rows are scored in one call.
    """
    if rows_at_once is None:
        longest = max((len(row) for rows in tokens for row in rows["decoder_input_ids"]), default=1)
        rows_at_once = min(ROWS_AT_ONCE, LOGITS_AT_ONCE // (longest * model.config.text_config.vocab_size))
    counts = [len(rows["labels"]) for rows in tokens]
    scores: list[list[tuple[float, bool]]] = [[] for _ in tokens]
    for clips, places in rounds(counts, rows_at_once):
        picked = [(clip, min(place, counts[clip] - 1)) for clip in clips for place in places]
        text: dict[str, Tensor] = pad_text(
            {name: [tokens[c][name][i] for c, i in picked] for name in tokens[0]}, pad_token_id
        )
        text = {name: value.to(model.device) for name, value in text.items()}
        labels = text.pop("labels")
        logits = model(encoder_outputs=of_clips(encoder_outputs, clips), **text, use_cache=False).logits
        totals = label_log_probabilities(logits, labels).double().sum(1)
        greedy = ((logits.argmax(-1) == labels) | (labels == IGNORED_LABEL)).all(1)
        found = torch.stack([totals, greedy.double()], dim=-1)
        for clip, values in zip(
            clips, rearrange(found, "(clip row) pair -> clip row pair", clip=len(clips)).tolist(), strict=True
        ):
            scores[clip] += [(total, bool(is_greedy)) for total, is_greedy in values[: counts[clip] - places.start]]
    return scores
