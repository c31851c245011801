"""The contextual model: a Llama-shaped decoder over text whose gated cross-attention reads the latents."""

from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .configuration_mirasol import MirasolTextConfig
from .modeling_mirasol_layers import attend, rotate, sincos_code
from .modeling_mirasol_stream import decoder_window


def rotary_frequencies(config: MirasolTextConfig) -> tuple[list[float], float]:
    """Return the rotary frequencies in radians per token, and the factor on sine and cosine (YaRN's, else 1)."""
    rope = config.rope_parameters
    assert rope, "filled in by the config's __post_init__"
    with torch.device("cpu"):  # also where the model is built on the meta device
        if rope["rope_type"] == "default":
            exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
            return (rope["rope_theta"] ** -exponent).tolist(), 1.0
        frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"))
        return frequencies.tolist(), scale


class MirasolDecoderAttention(nn.Module):
    """Causal self-attention with grouped key/value heads, rotary positions and the key/value cache."""

    is_causal = True

    def __init__(self, config: MirasolTextConfig, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=config.qkv_bias)
        self.o_proj = nn.Linear(
            config.num_attention_heads * config.head_dim, config.hidden_size, bias=config.output_bias
        )
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, hidden_states, attention_mask, rotation, cache: Cache | None):
        head_dim = self.config.head_dim
        query = self.q_norm(rearrange(self.q_proj(hidden_states), "r t (h d) -> r h t d", d=head_dim))
        key = self.k_norm(rearrange(self.k_proj(hidden_states), "r t (h d) -> r h t d", d=head_dim))
        if self.layer_idx not in self.config.layers_without_rotary:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        value = rearrange(self.v_proj(hidden_states), "r t (h d) -> r h t d", d=head_dim)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        output, weights = attend(self, query, key, value, attention_mask)
        return self.o_proj(output), weights


class MirasolCrossAttention(nn.Module):
    """Attention of text to the latents of its clip, keys and values projected once per clip.

    The rows of text may be k questions for each clip, grouped by clip: their tokens then share one query axis,
    so that latents are never copied.
    """

    is_causal = False

    def __init__(self, config: MirasolTextConfig, latent_size: int, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(latent_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(latent_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)

    def project(self, latents: Float[Tensor, "batch chunk latent dim"]) -> tuple[Tensor, Tensor]:
        """Return keys and values of the latents, or of their time codes; the two are added later."""
        return self.k_proj(latents), self.v_proj(latents)

    def forward(
        self, hidden_states, latents, times, projected, encoder_attention_mask, cache: EncoderDecoderCache | None
    ):
        """Let each token attend to the latents, or to a stream's `projected` (2 batch chunk latent dim) latents.

        Latents, `projected` and `times` are not needed once the cache holds the keys and values.
        """
        head_dim = self.config.head_dim
        if cache is not None and cache.is_updated.get(self.layer_idx):
            layer: Any = cache.cross_attention_cache.layers[self.layer_idx]
            key, value = layer.keys, layer.values
        else:
            states = zip(self.project(latents) if projected is None else projected, self.project(times), strict=True)
            key, value = (rearrange(x + time, "b c m (h d) -> b h (c m) d", d=head_dim) for x, time in states)
            if cache is not None:
                key, value = cache.cross_attention_cache.update(key, value, self.layer_idx)
                cache.is_updated[self.layer_idx] = True
        rows, clips = hidden_states.shape[0], key.shape[0]
        query = rearrange(self.q_proj(hidden_states), "(b q) t (h d) -> b h (q t) d", b=clips, d=head_dim)
        output, weights = attend(self, query, key, value, rearrange(encoder_attention_mask, "b k -> b 1 1 k"))
        output = rearrange(output, "b (q t) d -> (b q) t d", q=rows // clips)
        if weights is not None and rows != clips:  # else the tensor itself is returned, whose gradient can be taken
            weights = rearrange(weights, "b h (q t) k -> (b q) h t k", q=rows // clips)
        return self.o_proj(output), weights


class MirasolDecoderLayer(GradientCheckpointingLayer):
    """Llama's layer with gated cross-attention between self-attention and MLP."""

    def __init__(self, config: MirasolTextConfig, latent_size: int, layer_idx: int):
        super().__init__()
        self.self_attention_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attention = MirasolDecoderAttention(config, layer_idx)
        self.cross_attention_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.cross_attention = MirasolCrossAttention(config, latent_size, layer_idx)
        self.cross_attention_gate = nn.Parameter(torch.full((), config.cross_attention_gate_init))
        self.mlp_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states,
        attention_mask,
        rotation,
        latents,
        times,
        projected,
        encoder_attention_mask,
        past_key_values=None,
    ):
        self_cache = None if past_key_values is None else past_key_values.self_attention_cache
        attended, weights = self.self_attention(
            self.self_attention_norm(hidden_states), attention_mask, rotation, self_cache
        )
        hidden_states = hidden_states + self.dropout(attended)
        attended, cross_weights = self.cross_attention(
            self.cross_attention_norm(hidden_states),
            latents,
            times,
            projected,
            encoder_attention_mask,
            past_key_values,
        )
        hidden_states = hidden_states + self.dropout(self.cross_attention_gate * attended)
        normed = self.mlp_norm(hidden_states)
        hidden_states = hidden_states + self.dropout(
            self.down_proj(self.activation(self.gate_proj(normed)) * self.up_proj(normed))
        )
        return hidden_states, weights, cross_weights


class MirasolTextDecoder(nn.Module):
    """p(w_l | w_<l, h): hidden states of the text given the latents and their times."""

    def __init__(self, config: MirasolTextConfig, latent_size: int):
        super().__init__()
        self.config = config
        self.rotary_frequencies, self.rotary_scale = rotary_frequencies(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.time_projection = nn.Linear(config.time_code_size, latent_size, bias=False)
        self.layers = nn.ModuleList(
            MirasolDecoderLayer(config, latent_size, i) for i in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def time_code(
        self, chunk_times: Float[Tensor, "batch chunk 2"], dtype: torch.dtype
    ) -> Float[Tensor, "batch chunk 1 dim"]:
        """A fixed sin/cos code of each chunk's centre in seconds (periods from 0.5 s to 4 h), projected.

        It is added to keys, which find a moment, and to values, which name it ("when does ...?").
        """
        code = sincos_code(chunk_times.float().mean(dim=-1), self.config.time_code_size, 0.5, 14_400.0)
        return self.time_projection(code.to(dtype))[:, :, None]

    def project(
        self, latents: Float[Tensor, "batch chunk latent dim"]
    ) -> Float[Tensor, "batch chunk pair latent size"]:
        """Return keys and values of the latents in every layer, without times; streams compute them once per chunk."""
        layers: Any = self.layers
        states = [state for layer in layers for state in layer.cross_attention.project(latents)]
        return torch.stack(states, dim=2)

    def forward(
        self,
        input_ids: Int[Tensor, "row token"],
        attention_mask: Tensor | None,
        latents: Float[Tensor, "batch chunk latent dim"],
        chunk_mask: Bool[Tensor, "batch chunk"],
        chunk_times: Float[Tensor, "batch chunk 2"],
        projected: Float[Tensor, "batch chunk pair latent size"] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithCrossAttentions:
        """Hidden states of the text; `projected` saves the projection of the latents."""
        chunk_mask, chunk_times = decoder_window(chunk_mask, chunk_times, self.config.window_chunks)
        encoder_attention_mask = repeat(chunk_mask, "batch chunk -> batch (chunk latent)", latent=latents.shape[2])
        times = None
        if past_key_values is None or not past_key_values.is_updated.get(0):  # else keys and values are cached
            times = self.time_code(chunk_times, latents.dtype)
        hidden_states = self.embed_tokens(input_ids)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        rows, length = hidden_states.shape[:2]
        if attention_mask is not None and attention_mask.ndim == 2:
            # Left padding does not count.
            position = (attention_mask.long().cumsum(dim=-1) - 1).clamp_min(0)[:, -length:]
        else:
            position = repeat(torch.arange(length, device=hidden_states.device) + past, "token -> row token", row=rows)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=None if past_key_values is None else past_key_values.self_attention_cache,
        )
        angle = position.float()[..., None] * torch.tensor(self.rotary_frequencies, device=position.device)
        rotation = self.rotary_scale * angle.cos(), self.rotary_scale * angle.sin()  # once for all layers
        all_hidden_states, attentions, cross_attentions = [], [], []
        for number, layer in enumerate(self.layers):
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            hidden_states, weights, cross_weights = layer(
                hidden_states,
                mask,
                rotation,
                latents,
                times,
                None if projected is None else projected[:, :, 2 * number : 2 * number + 2].unbind(2),
                encoder_attention_mask,
                past_key_values=past_key_values,
            )
            attentions.append(weights)
            cross_attentions.append(cross_weights)
        hidden_states = self.norm(hidden_states)
        return BaseModelOutputWithCrossAttentions(
            last_hidden_state=hidden_states,
            hidden_states=(*all_hidden_states, hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions),
            cross_attentions=tuple(cross_attentions),
        )
