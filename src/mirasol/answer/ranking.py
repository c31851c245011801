"""The other way to answer: how likely each given option is, for multiple choice and class lists."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange

from mirasol.answer.generation import ROWS_AT_ONCE, label_log_probabilities, of_clips, rounds
from mirasol.chunks.text import TokenRows, pad_text
from mirasol.tasks import Question

LOGITS_AT_ONCE = 2**26  # values: with a vocabulary of 150,000 fewer rows of text fit into memory


@dataclass(frozen=True)
class Ranking:
    """How likely each option of one question is, in the order in which the question lists them.

    `log_probabilities` are sums over an option's tokens and its closing one, `num_tokens` of them: what the model
    says. Their mean over tokens (`per_token`) does not favour short options.
    """

    options: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    num_tokens: tuple[int, ...]

    @property
    def per_token(self) -> tuple[float, ...]:
        return tuple(total / count for total, count in zip(self.log_probabilities, self.num_tokens, strict=True))

    def best(self, count: int, per_token: bool = False) -> list[str]:
        """The `count` likeliest options, likeliest first; equally likely ones as the question lists them."""
        scores = self.per_token if per_token else self.log_probabilities
        return [self.options[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i])[:count]]


def option_rows(processor, questions: Sequence[Question]) -> TokenRows:
    """The rows of text of one clip: every question with each of its options."""
    for question in questions:
        if len(question.options) < 2:
            raise ValueError(
                f"Ranking needs options to choose between, found {len(question.options)} for {question.id} "
                f"({question.text!r}). Leave --rank out to generate answers, or give a class list with --classes FILE."
            )
    pairs = [(question.text, option) for question in questions for option in question.options]
    return processor.tokenize_questions([text for text, _ in pairs], [option for _, option in pairs])


@torch.no_grad()
def rank_options(
    model, encoder_outputs, questions: Sequence[Sequence[Question]], tokens: Sequence[TokenRows], pad_token_id: int,
    rows_at_once: int | None = None,
) -> list[list[Ranking]]:  # fmt: skip
    """One ranking per question of each clip, whose `tokens` are `option_rows` of its questions.

    The clips are encoded already. Their options are rows of text that share the clip's latents, some rows at a time.
    """
    if rows_at_once is None:
        longest = max((len(row) for rows in tokens for row in rows["decoder_input_ids"]), default=1)
        rows_at_once = min(ROWS_AT_ONCE, LOGITS_AT_ONCE // (longest * model.config.text_config.vocab_size))
    counts = [len(rows["labels"]) for rows in tokens]
    totals: list[list[float]] = [[] for _ in tokens]
    for clips, places in rounds(counts, rows_at_once):
        picked = [(clip, min(place, counts[clip] - 1)) for clip in clips for place in places]
        text = pad_text({name: [tokens[c][name][i] for c, i in picked] for name in tokens[0]}, pad_token_id)
        text = {name: value.to(model.device) for name, value in text.items()}
        labels = text.pop("labels")
        logits = model(encoder_outputs=of_clips(encoder_outputs, clips), **text, use_cache=False).logits
        found = rearrange(
            label_log_probabilities(logits, labels).double().sum(1), "(clip row) -> clip row", clip=len(clips)
        )
        for clip, values in zip(clips, found.tolist(), strict=True):
            totals[clip] += values[: counts[clip] - places.start]
    rankings = []
    for asked, rows, values in zip(questions, tokens, totals, strict=True):
        lengths = [sum(label != -100 for label in labels) for labels in rows["labels"]]
        of_clip, first = [], 0
        for question in asked:
            part = slice(first, first + len(question.options))
            of_clip.append(Ranking(question.options, tuple(values[part]), tuple(lengths[part])))
            first = part.stop
        rankings.append(of_clip)
    return rankings
