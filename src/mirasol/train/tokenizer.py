"""Small byte-level BPE tokenizer, trained on a task's texts, that can encode any text byte by byte."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
NUM_BYTES = 256


def build_tokenizer(
    texts: Iterable[str], vocab_size: int = 512, model_max_length: int = 64
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of at most `vocab_size` tokens: 3 special, every byte, and frequent merges of `texts`.

    All 256 bytes are in the vocabulary, because a user's question may hold any character: unseen words take more
    tokens, but none becomes unknown. Padding is on the left, because questions are prompts.
    """
    smallest = NUM_BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(
            f"A byte-level vocabulary needs at least {smallest} tokens (256 bytes and {len(SPECIAL_TOKENS)} special), "
            f"found vocab_size={vocab_size}: raise it."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    pad, bos, eos = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        model_max_length=model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
