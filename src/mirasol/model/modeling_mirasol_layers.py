"""Transformer layer of encoders, Combiner and temporal model, and sin/cos codes of positions and times."""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Eager attention, which also returns the weights; boolean masks are True where attended."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    weights = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
        else:
            weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return rearrange(torch.einsum("bhqk,bhkd->bhqd", weights, value), "b h q d -> b q h d"), weights


def attend(module: Any, query, key, value, attention_mask):
    """Run the attention of `config._attn_implementation` on [batch head token dim]; the result has merged heads."""
    function = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    output, weights = function(module, query, key, value, attention_mask, scaling=module.scaling, dropout=0.0)
    return rearrange(output, "b q h d -> b q (h d)"), weights


def sincos_code(
    position: Float[Tensor, "*place"], size: int, shortest: float, longest: float
) -> Float[Tensor, "*place size"]:
    """Return sine and cosine of `position` at `size / 2` periods, geometric from `shortest` to `longest`."""
    exponent = torch.linspace(0, 1, size // 2, device=position.device, dtype=torch.float32)
    periods = shortest * (longest / shortest) ** exponent
    angle = 2 * torch.pi * position.float()[..., None] / periods
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def rotate(
    states: Float[Tensor, "row head token dim"],
    cos: Float[Tensor, "#row token half"],
    sin: Float[Tensor, "#row token half"],
) -> Float[Tensor, "row head token dim"]:
    """Rotary position embedding in Llama's half-split layout, from the angles' cosine and sine."""
    cos, sin = cos[:, None], sin[:, None]
    first, second = states.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(states.dtype)


def rotary(
    position: Int[Tensor, "row token"], head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[Float[Tensor, "row token half"], Float[Tensor, "row token half"]]:
    """Cosine and sine of rotary position embedding, at least in fp32.

    Angles are computed in fp64 if the device has it: in fp32 they are off by 1e-3 at position 28,000.
    """
    exact = torch.float32 if position.device.type == "mps" else torch.float64
    exponent = torch.arange(0, head_dim, 2, device=position.device, dtype=exact) / head_dim
    angle = position.to(exact)[..., None] * theta**-exponent
    dtype = torch.promote_types(dtype, torch.float32)
    return angle.cos().to(dtype), angle.sin().to(dtype)


class MirasolSelfAttention(nn.Module):
    """Self-attention of a ViT, optionally rotary."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.kv_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Float[Tensor, "row token dim"],
        attention_mask: Bool[Tensor, "#row 1 #query past_and_token"] | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        num_queries: int | None = None,
        past: list[Tensor] | None = None,
    ) -> tuple[Float[Tensor, "row query dim"], Float[Tensor, "row head query token"] | None]:
        """Let the last `num_queries` tokens (default: all) attend to all; return outputs and weights (eager only).

        `past` holds the unrotated keys and values of earlier tokens, or is empty; the new ones are added in place.
        """
        asking = hidden_states if num_queries is None else hidden_states[:, -num_queries:]
        query = rearrange(self.q_proj(asking), "b t (h d) -> b h t d", d=self.head_dim)
        states = self.kv_proj(hidden_states).chunk(2, dim=-1)
        if past is not None:
            past[:] = states = [torch.cat(pair, dim=1) for pair in zip(past, states, strict=True)] if past else states
        key, value = (rearrange(x, "b t (h d) -> b h t d", d=self.head_dim) for x in states)
        if rotation is not None:
            cos, sin = rotation
            first = cos.shape[1] - query.shape[2]
            query, key = rotate(query, cos[:, first:], sin[:, first:]), rotate(key, cos, sin)
        output, weights = attend(self, query, key, value, attention_mask)
        return self.o_proj(output), weights


class MirasolEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer (ViT's)."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = MirasolSelfAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_size, config.intermediate_size),
            ACT2FN[config.hidden_act],
            nn.Linear(config.intermediate_size, config.hidden_size),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: Float[Tensor, "row token dim"],
        attention_mask: Bool[Tensor, "#row 1 #query past_and_token"] | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        num_queries: int | None = None,
        past: list[Tensor] | None = None,
    ) -> Float[Tensor, "row query dim"]:
        """Return the last `num_queries` tokens (default: all) after attention to all tokens and the `past`."""
        attended, _ = self.attention(self.attention_norm(hidden_states), attention_mask, rotation, num_queries, past)
        hidden_states = hidden_states[:, -attended.shape[1] :] + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))
