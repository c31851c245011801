"""Encoders of one chunk: strided windows (tubes, patches) to tokens with a fixed code of their centres, then a ViT."""

from math import prod

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from .configuration_mirasol import MirasolAudioConfig, MirasolVideoConfig, count_tokens, num_positions
from .modeling_mirasol_layers import MirasolEncoderLayer, sincos_code


def window_centres(size: tuple[int, ...], kernel, stride, offset) -> Float[Tensor, "token axis"]:
    """Centre of every window in elements of the chunk, in the order in which windows become tokens."""
    axes = [
        o + (k - 1) / 2 + s * torch.arange(num_positions(n, k, s, o), dtype=torch.float32)
        for n, k, s, o in zip(size, kernel, stride, offset, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def covered_area(config: MirasolVideoConfig) -> list[float]:
    """Share of each frame of a chunk that at least one tube sees."""
    seen = torch.zeros(config.input_size, dtype=torch.bool)
    for kernel, stride, offset in config.tubes:
        for centre in window_centres(config.input_size, kernel, stride, offset):
            start = [round(float(c) - (k - 1) / 2) for c, k in zip(centre, kernel, strict=True)]
            seen[tuple(slice(a, a + k) for a, k in zip(start, kernel, strict=True))] = True
    return seen.float().mean(dim=(1, 2)).tolist()


class MirasolWindowEmbedding(nn.Module):
    """Tokens of a set of strided windows, any shape: gather, one matrix product per shape, a code of the position.

    A window is a 3D convolution whose stride may differ from its kernel (TubeViT); gathering first makes it a plain
    matrix product: the windows hardly overlap, so little is copied twice.

    The position's code is a fixed sin/cos code of the centre or, with `learned_positions`, a learned row a token.
    `num_prefix_tokens` learned tokens come first (CLS, distillation).
    """

    def __init__(
        self,
        windows,
        size: tuple[int, ...],
        num_channels: int,
        hidden_size: int,
        num_prefix_tokens: int = 0,
        learned_positions: bool = False,
    ):
        super().__init__()
        self.windows, self.size, self.hidden_size = windows, tuple(size), hidden_size
        sizes = [num_channels * prod(kernel) for kernel, _, _ in windows]
        self.projections = nn.ModuleList(nn.Linear(size, hidden_size) for size in sizes)
        num_tokens = num_prefix_tokens + count_tokens(windows, self.size)
        self.prefix_tokens = nn.Parameter(torch.zeros(num_prefix_tokens, hidden_size)) if num_prefix_tokens else None
        self.position_embedding = nn.Parameter(torch.zeros(num_tokens, hidden_size)) if learned_positions else None

    def position_code(self, device: torch.device) -> Float[Tensor, "token dim"]:
        """The code of every token's centre; axes share the width equally, periods from 2 elements to 4 chunks."""
        share = self.hidden_size // (2 * len(self.size)) * 2
        codes = []
        for kernel, stride, offset in self.windows:
            centres = window_centres(self.size, kernel, stride, offset).to(device)
            code = torch.cat(
                [sincos_code(c, share, 2.0, 4.0 * n) for c, n in zip(centres.unbind(-1), self.size, strict=True)],
                dim=-1,
            )
            codes.append(nn.functional.pad(code, (0, self.hidden_size - code.shape[-1])))
        return torch.cat(codes)

    def forward(self, values: Float[Tensor, "chunk channel *size"]) -> Float[Tensor, "chunk token dim"]:
        projected = []
        for (kernel, stride, offset), projection in zip(self.windows, self.projections, strict=True):
            windows = values
            for axis, (k, s, o) in enumerate(zip(kernel, stride, offset, strict=True), start=2):
                windows = windows.narrow(axis, o, windows.shape[axis] - o).unfold(axis, k, s)
            # -> chunk token (channel kernel)
            windows = windows.movedim(1, len(kernel) + 1).flatten(len(kernel) + 1).flatten(1, -2)
            projected.append(projection(windows))
        tokens = torch.cat(projected, dim=1)
        if self.position_embedding is None:
            tokens = tokens + self.position_code(tokens.device).to(tokens.dtype)
        if self.prefix_tokens is not None:
            prefix = repeat(self.prefix_tokens, "token dim -> chunk token dim", chunk=tokens.shape[0])
            tokens = torch.cat([prefix, tokens], dim=1)
        return tokens if self.position_embedding is None else tokens + self.position_embedding


class MirasolTower(nn.Module):
    """A ViT over the windows of one chunk, with its own layers or the layers of the tower `shared`."""

    def __init__(self, config, windows, num_channels: int, shared: "MirasolTower | None" = None):
        super().__init__()
        self.embedding = MirasolWindowEmbedding(
            windows,
            config.input_size,
            num_channels,
            config.hidden_size,
            config.num_prefix_tokens,
            config.position_code == "learned",
        )
        # In a tuple, so that parameters are counted, saved and sharded once, with the tower they belong to.
        self._shared = (shared,)
        if shared is None:
            normed = config.embedding_norm
            self.embedding_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if normed else nn.Identity()
            self.layers = nn.ModuleList(MirasolEncoderLayer(config) for _ in range(config.num_hidden_layers))
            self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def encode(self, values: Float[Tensor, "chunk channel *size"]) -> Float[Tensor, "chunk token dim"]:
        vit = self._shared[0] or self
        hidden_states = vit.embedding_norm(self.embedding(values))
        for layer in vit.layers:
            hidden_states = layer(hidden_states)
        return vit.norm(hidden_states)


class MirasolVideoEncoder(MirasolTower):
    """v_t: the tokens of one chunk of frames.

    What moves within the chunk, its difference from the chunk's mean frame, is first multiplied by `motion_gain`: a
    still face fills the pixels with what is always the same, and lips change them little. 1 leaves the pixels alone.
    """

    def __init__(self, config: MirasolVideoConfig):
        super().__init__(config, config.tubes, config.num_channels)
        self.motion_gain = config.motion_gain

    def forward(
        self, pixel_values: Float[Tensor, "chunk frame channel height width"]
    ) -> Float[Tensor, "chunk video_token dim"]:
        if self.motion_gain != 1:
            still = pixel_values.mean(dim=1, keepdim=True)
            pixel_values = still + self.motion_gain * (pixel_values - still)
        return self.encode(
            rearrange(pixel_values, "chunk frame channel height width -> chunk channel frame height width")
        )


class MirasolAudioEncoder(MirasolTower):
    """a_t: the tokens of one chunk of log-mel, by the video encoder's ViT if that is `shared`."""

    def __init__(self, config: MirasolAudioConfig, shared: MirasolVideoEncoder | None = None):
        super().__init__(config, config.patches, num_channels=1, shared=shared)

    def forward(self, input_features: Float[Tensor, "chunk mel_frame mel"]) -> Float[Tensor, "chunk audio_token dim"]:
        return self.encode(rearrange(input_features, "chunk mel_frame mel -> chunk 1 mel_frame mel"))
