"""Questions and answers -> token rows for the text decoder."""

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100
TokenRows = dict[str, list[list[int]]]
LAST_QUESTION = (
    "{%- set message = messages | selectattr('role', 'equalto', 'user') | list | last -%}"
    "{%- if message.content is string -%}{%- set question = message.content -%}{%- else -%}"
    "{%- set texts = message.content | selectattr('type', 'equalto', 'text') | map(attribute='text') -%}"
    "{%- set question = texts | join(' ') -%}"
    "{%- endif -%}"
)


def chat_template_of(prompt_template: str) -> str:
    """A chat template that renders a conversation's last user message as `prompt_template` renders a question."""
    if prompt_template.count("{question}") != 1:
        raise ValueError(
            f"prompt_template must hold {{question}} once, but it is {prompt_template!r}: "
            "write it where the question belongs."
        )
    before, after = (json.dumps(part) for part in prompt_template.split("{question}"))
    return LAST_QUESTION + f"{{{{ {before} ~ question ~ {after} }}}}"


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str] | None = None
) -> TokenRows:
    """`decoder_input_ids` of each prompt, after the begin token; with answers, also the answer, and `labels`.

    Labels are already shifted (`logits[i]` predicts `labels[i]`), end with the end token and ignore the prompt:

        decoder_input_ids   <s>  which digit  ?   two
        labels             -100  -100  -100  two  </s>
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is None:
        begin = end  # Qwen's tokenizers have no begin token
    prompt_ids = [[begin, *ids] for ids in _ids(tokenizer, prompts)]
    if answers is None:
        _check_context(tokenizer, prompt_ids, room=1)
        return {"decoder_input_ids": prompt_ids}
    if len(answers) != len(prompts):
        raise ValueError(
            f"Every question needs one answer, but there are {len(prompts)} questions and {len(answers)} answers: "
            "pass lists of equal length."
        )
    pairs = list(zip(prompt_ids, _ids(tokenizer, answers), strict=True))
    rows = [prompt + answer for prompt, answer in pairs]
    _check_context(tokenizer, rows, room=0)
    labels = [[IGNORED_LABEL] * (len(prompt) - 1) + answer + [end] for prompt, answer in pairs]
    return {"decoder_input_ids": rows, "labels": labels}


def pad_text(
    rows: Mapping[str, Sequence[Sequence[int]]],
    pad_token_id: int,
    padding_side: str | None = None,
    padding: bool | str = True,
    max_length: int | None = None,
) -> dict[str, Tensor]:
    """Return `decoder_input_ids`, `decoder_attention_mask` and, if there are answers, `labels`, [question token].

    Args:
        rows: Token ids, as `tokenize_prompts` gives them.
        pad_token_id: Fills shorter rows.
        padding_side: By default left for prompts, because generation appends on the right; right with answers.
        padding: "max_length" fills every row up to `max_length`; off, rows must be equally long.
        max_length: Longest row that is allowed; nothing is ever cut.
    """
    side = padding_side or ("right" if "labels" in rows else "left")
    lengths = [len(row) for row in rows["decoder_input_ids"]]
    longest = max(lengths, default=0)
    if max_length is not None and longest > max_length:
        raise ValueError(
            f"A question with its answer must fit into max_length={max_length} tokens, but question "
            f"{lengths.index(longest)} takes {longest}: shorten it or raise max_length."
        )
    if padding in (False, "do_not_pad") and len(set(lengths)) > 1:
        raise ValueError(
            f"Rows of {min(lengths)} to {longest} tokens make no tensor without padding: leave padding on, or pass "
            "one question a call."
        )
    extra = max_length - longest if padding == "max_length" and max_length is not None else 0

    def pad(tokens: Sequence[Sequence[int]], fill: int) -> Tensor:
        padded = pad_sequence([torch.tensor(row) for row in tokens], True, fill, padding_side=side)
        return F.pad(padded, (extra, 0) if side == "left" else (0, extra), value=fill)

    padded = {"decoder_input_ids": pad(rows["decoder_input_ids"], pad_token_id)}
    padded["decoder_attention_mask"] = pad([[1] * len(row) for row in rows["decoder_input_ids"]], 0)
    if "labels" in rows:
        padded["labels"] = pad(rows["labels"], IGNORED_LABEL)
    return padded


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _check_context(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], room: int) -> None:
    """Refuses rows that leave less than `room` tokens of the context."""
    context = tokenizer.model_max_length
    for number, row in enumerate(rows):
        if len(row) + room > context:
            raise ValueError(
                f"A question must fit into the text decoder's context of {context} tokens"
                f"{' and leave room for the answer' if room else ' together with its answer'}, but question {number} "
                f"takes {len(row)} tokens: shorten it."
            )


def as_strings(text: str | Sequence[str], name: str, count: int) -> list[str]:
    """A list of strings; one string counts for each of `count` clips."""
    strings = [text] * max(1, count) if isinstance(text, str) else list(text)
    for item in strings:
        if not isinstance(item, str):
            raise ValueError(
                f"{name} must be a string or a list of strings, but it holds a {type(item).__name__}: {item!r}."
            )
    return strings
