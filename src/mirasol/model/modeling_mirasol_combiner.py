"""Combiners: the video and audio tokens of each chunk -> m vectors. Interface, transformer, and mean pooling."""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .configuration_mirasol import MirasolConfig
from .modeling_mirasol_layers import MirasolEncoderLayer, rotary


def slot_mask(
    video: Bool[Tensor, " chunk"], audio: Bool[Tensor, " chunk"], sizes: tuple[int, int]
) -> Bool[Tensor, "chunk 1 1 slot"]:
    """Return the key mask over slots: those of real modalities, or all if a chunk has none (its output is unused).

    Two video slots, four audio slots (1 = key); rows are chunks with both / sound only / picture only / none:

        v v a a a a
        1 1 1 1 1 1
        0 0 1 1 1 1
        1 1 0 0 0 0
        1 1 1 1 1 1
    """
    neither = ~(video | audio)
    mask = torch.cat(
        [(video | neither)[:, None].expand(-1, sizes[0]), (audio | neither)[:, None].expand(-1, sizes[1])], dim=1
    )
    return rearrange(mask, "chunk slot -> chunk 1 1 slot")


def previous_chunks(
    values: Float[Tensor, "batch past_and_chunk latent dim"], num_history_chunks: int
) -> Float[Tensor, "row past_latent dim"]:
    """Return the vectors of the `num_history_chunks` before each chunk, oldest first; `values` starts with as many."""
    windows = values.unfold(1, num_history_chunks, 1)[:, :-1]
    return rearrange(windows, "batch chunk latent dim past -> (batch chunk) (past latent) dim")


def history_mask(
    chunk_mask: Bool[Tensor, "batch past_and_chunk"], num_history_chunks: int, num_latents: int
) -> Bool[Tensor, "row 1 1 past_latent"]:
    """Return the key mask over the kept slots of earlier chunks: those of real chunks.

    Together with the chunk's own slots this is the band of a block mask over the whole sequence. Three
    chunks of two slots, the second slot kept, a history of one chunk (1 = attended); all real, and without the middle:

        1 1 . . . .        1 1 . . . .
        1 1 . . . .        1 1 . . . .
        . 1 1 1 . .        . 1 1 1 . .
        . 1 1 1 . .        . 1 1 1 . .
        . . . 1 1 1        . . . . 1 1
        . . . 1 1 1        . . . . 1 1
    """
    windows = chunk_mask.unfold(1, num_history_chunks, 1)[:, :-1]
    return repeat(windows, "batch chunk past -> (batch chunk) 1 1 (past latent)", latent=num_latents)


class MirasolCombiner(nn.Module):
    """x_t = C(v_<=t, a_<=t): base class of all Combiners, which differ in how they fuse a chunk and in their memory.

    Each is called as `combiner(video_features, audio_features, video_mask, audio_mask, stream_cache)` with features
    (batch chunk token dim; `audio_features` is None in a video-only model) and masks (batch chunk, True = real), and
    returns `combined_features` (batch chunk latent dim) and the next `stream_cache`. Masked values change nothing, bit
    for bit. The stream cache is a dict of tensors whose first axis is the batch, empty for a Combiner without memory;
    None starts a clip. Chunks passed in pieces, with the cache in between, give the same vectors as in one call.
    """

    def __init__(self, config: MirasolConfig):
        super().__init__()
        hidden_size = config.combiner_config.hidden_size
        self.num_latents = config.num_latents
        self.sizes = config.slot_sizes
        self.video_projection = nn.Linear(config.video_config.hidden_size, hidden_size)
        if config.use_audio:
            self.audio_projection = nn.Linear(config.audio_config.hidden_size, hidden_size)

    def project(
        self,
        video_features: Float[Tensor, "batch chunk video_token video_dim"],
        audio_features: Float[Tensor, "batch chunk audio_token audio_dim"] | None,
        video_mask: Bool[Tensor, "batch chunk"],
        audio_mask: Bool[Tensor, "batch chunk"],
        missing: Float[Tensor, "modality dim"] | tuple[float, float],
    ) -> Float[Tensor, "batch chunk slot dim"]:
        """Project the features to slots [video, audio]; a masked modality gets its `missing` placeholder."""
        slots = torch.where(video_mask[..., None, None], self.video_projection(video_features), missing[0])
        if audio_features is None:
            return slots
        audio = torch.where(audio_mask[..., None, None], self.audio_projection(audio_features), missing[1])
        return torch.cat([slots, audio], dim=2)


class MirasolTransformerCombiner(MirasolCombiner):
    """A transformer over the chunk's slots [video, audio], of which the last m outputs are kept.

    A missing modality's slots hold a learned placeholder, are masked as keys and stay as queries, so that the last m
    outputs always exist and an absent modality equals a masked one bit for bit (paper: no learned queries).

    With `num_history_chunks` a chunk's slots also attend, at every layer, to the m kept slots of earlier chunks as
    they entered that layer, with rotary positions by distance in chunks. These inputs are cached instead of keys and
    values, because that takes half the memory and their rotation changes with distance. The receptive field is then
    `num_history_chunks` times the number of layers.
    """

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        self.config = config.combiner_config
        hidden_size = self.config.hidden_size
        self.slot_embedding = nn.Parameter(torch.zeros(sum(self.sizes), hidden_size))
        self.missing_embedding = nn.Parameter(torch.zeros(1 + config.use_audio, hidden_size))
        self.layers = nn.ModuleList(MirasolEncoderLayer(self.config) for _ in range(self.config.num_hidden_layers))
        self.norm = nn.LayerNorm(hidden_size, eps=self.config.layer_norm_eps)

    def forward(
        self,
        video_features: Float[Tensor, "batch chunk video_token video_dim"],
        audio_features: Float[Tensor, "batch chunk audio_token audio_dim"] | None,
        video_mask: Bool[Tensor, "batch chunk"],
        audio_mask: Bool[Tensor, "batch chunk"],
        stream_cache: dict[str, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch chunk latent dim"], dict[str, Tensor]]:
        """Return the last m outputs of each chunk, and the cache for the next chunks."""
        chunk_mask = video_mask | audio_mask
        batch, num_chunks = chunk_mask.shape
        slots = self.project(video_features, audio_features, video_mask, audio_mask, self.missing_embedding)
        hidden_states = rearrange(slots, "batch chunk slot dim -> (batch chunk) slot dim") + self.slot_embedding
        mask = slot_mask(video_mask.flatten(), audio_mask.flatten(), self.sizes)
        rotation, history, past = None, self.config.num_history_chunks, []
        if history:
            if stream_cache is None:
                stream_cache = self._empty_cache(hidden_states, batch)
            chunk_mask = torch.cat([stream_cache["history_mask"], chunk_mask], dim=1)
            mask = torch.cat([history_mask(chunk_mask, history, self.num_latents), mask], dim=-1)
            rotation = self._rotation(hidden_states)
        for index, layer in enumerate(self.layers):
            tokens = hidden_states
            if history:
                kept = rearrange(
                    hidden_states[:, -self.num_latents :],
                    "(batch chunk) latent dim -> batch chunk latent dim",
                    chunk=num_chunks,
                )
                assert stream_cache is not None
                past.append(torch.cat([stream_cache["history"][:, :, index], kept], dim=1))
                tokens = torch.cat([previous_chunks(past[-1], history), hidden_states], dim=1)
            is_last = index == len(self.layers) - 1  # whose other outputs are not used
            hidden_states = layer(tokens, mask, rotation, num_queries=self.num_latents if is_last else sum(self.sizes))
        combined = rearrange(
            self.norm(hidden_states), "(batch chunk) latent dim -> batch chunk latent dim", chunk=num_chunks
        )
        if not history:
            return combined, {}
        last = torch.stack([values[:, -history:] for values in past], dim=2)
        return combined, {"history": last, "history_mask": chunk_mask[:, -history:]}

    def _empty_cache(self, hidden_states: Float[Tensor, "row slot dim"], batch: int) -> dict[str, Tensor]:
        history, dim = self.config.num_history_chunks, hidden_states.shape[-1]
        return {
            "history": hidden_states.new_zeros(batch, history, len(self.layers), self.num_latents, dim),
            "history_mask": hidden_states.new_zeros(batch, history, dtype=torch.bool),
        }

    def _rotation(self, hidden_states: Float[Tensor, "row slot dim"]) -> tuple[Tensor, Tensor]:
        """Rotary positions of the keys: their distance in chunks, 0 in the chunk itself."""
        distance = torch.arange(-self.config.num_history_chunks, 0, device=hidden_states.device)
        past = distance.repeat_interleave(self.num_latents)
        position = torch.cat([past, past.new_zeros(sum(self.sizes))])
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        return rotary(position[None], head_dim, self.config.rope_theta, hidden_states.dtype)


class MirasolMeanPoolCombiner(MirasolCombiner):
    """m means of a chunk's slots: the ablation's lower bound, without attention or memory.

    The projected slots [video, audio] (a learned placeholder in those of a missing modality) are divided in order
    into m groups; of S slots, group i runs from floor(i S / m) to ceil((i + 1) S / m), so that neighbours share at
    most one. The mean of each group, after LayerNorm, is one vector.
    """

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        combiner = config.combiner_config
        self.missing_embedding = nn.Parameter(torch.zeros(1 + config.use_audio, combiner.hidden_size))
        self.norm = nn.LayerNorm(combiner.hidden_size, eps=combiner.layer_norm_eps)

    def forward(
        self,
        video_features: Float[Tensor, "batch chunk video_token video_dim"],
        audio_features: Float[Tensor, "batch chunk audio_token audio_dim"] | None,
        video_mask: Bool[Tensor, "batch chunk"],
        audio_mask: Bool[Tensor, "batch chunk"],
        stream_cache: dict[str, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch chunk latent dim"], dict[str, Tensor]]:
        """The m means of each chunk, and an empty cache."""
        slots = self.project(video_features, audio_features, video_mask, audio_mask, self.missing_embedding)
        rows = rearrange(slots, "batch chunk slot dim -> (batch chunk) dim slot")
        means = nn.functional.adaptive_avg_pool1d(rows, self.num_latents)
        combined = rearrange(means, "(batch chunk) dim latent -> batch chunk latent dim", chunk=slots.shape[1])
        return self.norm(combined), {}
