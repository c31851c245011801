"""The Combiner: one chunk's video and audio tokens -> m vectors."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .configuration_mirasol import MirasolConfig
from .modeling_mirasol_layers import MirasolEncoderLayer


def slot_mask(
    video: Bool[Tensor, " chunk"], audio: Bool[Tensor, " chunk"], sizes: tuple[int, int]
) -> Bool[Tensor, "chunk 1 1 slot"]:
    """Which slots are keys: those of real modalities; all of them in a chunk without any, whose output is not read.

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


class MirasolTransformerCombiner(nn.Module):
    """x_t = C(v_t, a_t): a transformer over the chunk's slots [video, audio], of which the last m outputs are kept.

    A missing modality's slots hold a learned placeholder, are masked as keys and stay as queries, so that the last m
    outputs always exist and an absent modality equals a masked one bit for bit (paper: no learned queries).
    """

    def __init__(self, config: MirasolConfig):
        super().__init__()
        combiner = config.combiner_config
        self.num_latents = combiner.num_latents
        self.sizes = config.slot_sizes
        self.video_projection = nn.Linear(config.video_config.hidden_size, combiner.hidden_size)
        if config.use_audio:
            self.audio_projection = nn.Linear(config.audio_config.hidden_size, combiner.hidden_size)
        self.slot_embedding = nn.Parameter(torch.zeros(sum(self.sizes), combiner.hidden_size))
        self.missing_embedding = nn.Parameter(torch.zeros(1 + config.use_audio, combiner.hidden_size))
        self.layers = nn.ModuleList(MirasolEncoderLayer(combiner) for _ in range(combiner.num_hidden_layers))
        self.norm = nn.LayerNorm(combiner.hidden_size, eps=combiner.layer_norm_eps)

    def forward(
        self,
        video_features: Float[Tensor, "chunk video_token video_dim"],
        audio_features: Float[Tensor, "chunk audio_token audio_dim"] | None,
        video_mask: Bool[Tensor, " chunk"],
        audio_mask: Bool[Tensor, " chunk"],
    ) -> Float[Tensor, "chunk latent dim"]:
        """The last m outputs; `audio_features` is None in a video-only model."""
        slots = torch.where(
            video_mask[:, None, None], self.video_projection(video_features), self.missing_embedding[0]
        )
        if audio_features is not None:
            audio = torch.where(
                audio_mask[:, None, None], self.audio_projection(audio_features), self.missing_embedding[1]
            )
            slots = torch.cat([slots, audio], dim=1)
        hidden_states = slots + self.slot_embedding
        mask = slot_mask(video_mask, audio_mask, self.sizes)
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, mask)
        return self.norm(self.layers[-1](hidden_states, mask, num_queries=self.num_latents))  # the others nobody reads
