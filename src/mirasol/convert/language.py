"""Checkpoints of Llama and its relatives -> config, weights and tokenizer of Mirasol's text decoder."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mirasol.convert.sources import Source

LAYER_NAMES = {
    "self_attn": "self_attention",
    "mlp": "",
    "input_layernorm": "self_attention_norm",
    "post_attention_layernorm": "mlp_norm",
}


def text_values(source: Source) -> dict[str, Any]:
    """Return values of `MirasolTextConfig`; gates are zero, so that logits at step 0 equal the source's."""
    config, weights = source.config, source.weights
    if getattr(config, "use_bidirectional_attention", False):
        raise ValueError(
            f"Expected a causal model in {source.name}, found use_bidirectional_attention=True. Pass one."
        )
    context = num_context_tokens(source)
    if context < config.max_position_embeddings:
        warnings.warn(
            f"{source.name} attends to its last {context} tokens only (sliding_window), so the context has {context} "
            f"instead of {config.max_position_embeddings} tokens.",
            stacklevel=2,
        )
    attention, mlp = "model.layers.0.self_attn", "model.layers.0.mlp"
    alike = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "hidden_act", "rms_norm_eps", "tie_word_embeddings",
    )  # fmt: skip
    return {name: getattr(config, name) for name in alike} | {
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "max_position_embeddings": context,
        "rope_parameters": dict(config.rope_parameters),
        "qkv_bias": f"{attention}.q_proj.bias" in weights,
        "output_bias": f"{attention}.o_proj.bias" in weights,
        "mlp_bias": f"{mlp}.gate_proj.bias" in weights,
        "qk_norm": f"{attention}.q_norm.weight" in weights,
        "layers_without_rotary": [i for i, on in enumerate(getattr(config, "no_rope_layers", None) or ()) if not on],
        "cross_attention_gate_init": 0.0,
    }


def num_context_tokens(source: Source) -> int:
    """Return the number of tokens within which full attention equals the source's sliding window."""
    config = source.config
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or (["sliding_attention"] if window else []))
    if other := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(
            f"Expected full or sliding attention in every layer of {source.name}, found {', '.join(sorted(other))}. "
            "Pass a checkpoint of these."
        )
    context = config.max_position_embeddings
    return min(context, window) if "sliding_attention" in kinds else context


def text_weights(source: Source) -> dict[str, Tensor]:
    """Return the weights by the names of `MirasolForConditionalGeneration`, without a tied head."""
    ours = {}
    for name, weight in source.weights.items():
        place = name.removeprefix("model.")
        if place.startswith("layers."):
            _, number, module, *rest = place.split(".")
            place = ".".join(part for part in ("layers", number, LAYER_NAMES[module], *rest) if part)
        if name != "lm_head.weight":
            ours[f"model.decoder.{place}"] = weight
        elif not source.config.tie_word_embeddings:
            ours[name] = weight
    return ours


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Return the checkpoint's tokenizer, padding on the left, with the decoder's context.

    Without a padding token the end token pads; padding is masked, so it is not taken for an end.
    """
    tokenizer = AutoTokenizer.from_pretrained(source.name)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"Expected an end token in the tokenizer of {source.name}, found none. Set its eos_token: it ends answers."
        )
    if len(tokenizer) > source.config.vocab_size:
        raise ValueError(
            f"The tokenizer of {source.name} must not have more tokens than the model has embeddings, found "
            f"{len(tokenizer)} and {source.config.vocab_size}. Resize the embeddings of the language model first."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = min(tokenizer.model_max_length, num_context_tokens(source))
    return tokenizer
