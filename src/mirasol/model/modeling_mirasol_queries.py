"""Combiners with m learned vectors, which are not the paper's: Perceiver's resampler, and learned output tokens."""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .configuration_mirasol import MirasolConfig
from .modeling_mirasol_combiner import MirasolCombiner, slot_mask
from .modeling_mirasol_layers import MirasolEncoderLayer


class MirasolPerceiverCombiner(MirasolCombiner):
    """m learned queries that attend to a chunk's slots and to each other; the slots are not updated.

    The resampler of Flamingo (arXiv 2204.14198) after Perceiver: keys are [slots, queries]. A missing modality is
    masked and needs no placeholder, because the m outputs are those of the queries.
    """

    updates_slots = False

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        combiner = config.combiner_config
        self.slot_embedding = nn.Parameter(torch.zeros(sum(self.sizes), combiner.hidden_size))
        self.queries = nn.Parameter(torch.zeros(self.num_latents, combiner.hidden_size))
        self.layers = nn.ModuleList(MirasolEncoderLayer(combiner) for _ in range(combiner.num_hidden_layers))
        self.norm = nn.LayerNorm(combiner.hidden_size, eps=combiner.layer_norm_eps)

    def forward(
        self,
        video_features: Float[Tensor, "batch chunk video_token video_dim"],
        audio_features: Float[Tensor, "batch chunk audio_token audio_dim"] | None,
        video_mask: Bool[Tensor, "batch chunk"],
        audio_mask: Bool[Tensor, "batch chunk"],
        stream_cache: dict[str, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch chunk latent dim"], dict[str, Tensor]]:
        """The outputs of the m queries for each chunk, and an empty cache."""
        slots = self.project(video_features, audio_features, video_mask, audio_mask, (0.0, 0.0)) + self.slot_embedding
        num_chunks, num_slots = slots.shape[1:3]
        slots = rearrange(slots, "batch chunk slot dim -> (batch chunk) slot dim")
        queries = repeat(self.queries, "latent dim -> row latent dim", row=len(slots))
        mask = slot_mask(video_mask.flatten(), audio_mask.flatten(), self.sizes)
        mask = nn.functional.pad(mask, (0, self.num_latents), value=True)  # the queries are always there
        for index, layer in enumerate(self.layers):
            tokens = torch.cat([slots, queries], dim=1)
            if self.updates_slots and index < len(self.layers) - 1:
                slots, queries = layer(tokens, mask).split([num_slots, self.num_latents], dim=1)
            else:
                queries = layer(tokens, mask, num_queries=self.num_latents)
        return rearrange(
            self.norm(queries), "(batch chunk) latent dim -> batch chunk latent dim", chunk=num_chunks
        ), {}


class MirasolLearnedTokensCombiner(MirasolPerceiverCombiner):
    """A transformer over [slots, m learned tokens], of which the outputs of the learned tokens are kept."""

    updates_slots = True
