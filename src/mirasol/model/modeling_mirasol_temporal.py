"""The time-aligned autoregressive model over chunks, and the heads that predict the next chunk."""

from math import prod

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from .configuration_mirasol import MirasolConfig
from .modeling_mirasol_layers import MirasolEncoderLayer, rotary


def chunk_causal_mask(
    chunk_mask: Bool[Tensor, "batch past_and_chunk"], num_latents: int, num_past: int = 0, window: int | None = None
) -> Bool[Tensor, "batch 1 query key"]:
    """Return a mask that is full inside a chunk and causal across chunks; missing chunks are keys of themselves only.

    The first `num_past` chunks are keys only; with a window each chunk attends to the last `window`, itself included.
    Three chunks of two latents, all real (1 = attended); with the middle chunk missing; and with a window of two:

        1 1 . . . .        1 1 . . . .        1 1 . . . .
        1 1 . . . .        1 1 . . . .        1 1 . . . .
        1 1 1 1 . .        1 1 1 1 . .        1 1 1 1 . .
        1 1 1 1 . .        1 1 1 1 . .        1 1 1 1 . .
        1 1 1 1 1 1        1 1 . . 1 1        . . 1 1 1 1
        1 1 1 1 1 1        1 1 . . 1 1        . . 1 1 1 1
    """
    index = torch.arange(chunk_mask.shape[1], device=chunk_mask.device)
    distance = index[num_past:, None] - index
    earlier = (distance > 0) if window is None else (distance > 0) & (distance < window)
    mask = (earlier & rearrange(chunk_mask, "batch key -> batch 1 key")) | (distance == 0)
    return repeat(mask, "batch query key -> batch 1 (query q) (key k)", q=num_latents, k=num_latents)


class MirasolTemporalModel(nn.Module):
    """h_t = E(x_1..x_t): the latents; rotary positions by chunk, a learned embedding of the latent inside a chunk."""

    def __init__(self, config: MirasolConfig):
        super().__init__()
        self.config = config.temporal_config
        hidden_size = self.config.hidden_size
        self.slot_embedding = nn.Parameter(torch.zeros(config.num_latents, hidden_size))
        self.mask_embedding = nn.Parameter(torch.zeros(hidden_size))
        self.layers = nn.ModuleList(MirasolEncoderLayer(self.config) for _ in range(self.config.num_hidden_layers))
        self.norm = nn.LayerNorm(hidden_size, eps=self.config.layer_norm_eps)

    def forward(
        self,
        combined_features: Float[Tensor, "batch chunk latent dim"],
        chunk_mask: Bool[Tensor, "batch chunk"],
        stream_cache: dict[str, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "batch chunk latent dim"], dict[str, Tensor]]:
        """Return the latents and, given a stream cache (empty at the start), the entries of the next one.

        Positions count from the oldest cached chunk, so that a stream may have any length.
        """
        num_chunks, num_latents = combined_features.shape[1:3]
        if self.training:  # also at probability 0, because DDP fails on a weight without a gradient
            masked = (
                torch.rand(combined_features.shape[:3], device=combined_features.device)
                < self.config.combined_mask_probability
            )
            combined_features = torch.where(masked[..., None], self.mask_embedding, combined_features)
        # The sum comes last, because a view as input would make torch compile the first layer again.
        slots = repeat(self.slot_embedding, "latent dim -> (chunk latent) dim", chunk=num_chunks)
        hidden_states = rearrange(combined_features, "batch chunk latent dim -> batch (chunk latent) dim") + slots
        num_past = 0
        if stream_cache:
            chunk_mask = torch.cat([stream_cache["temporal_mask"], chunk_mask], dim=1)
            num_past = chunk_mask.shape[1] - num_chunks
        index = torch.arange(num_past + num_chunks, device=chunk_mask.device)
        index = repeat(index, "chunk -> 1 (chunk latent)", latent=num_latents)
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        rotation = rotary(index, head_dim, self.config.rope_theta, hidden_states.dtype)
        mask = chunk_causal_mask(chunk_mask, num_latents, num_past, self.config.window_chunks)
        state: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers):
            names = f"key_{number}", f"value_{number}"
            past = None
            if stream_cache is not None:  # empty at the start of a stream
                past = [stream_cache[name].flatten(1, 2) for name in names if stream_cache]
            hidden_states = layer(hidden_states, mask, rotation, past=past)
            for name, values in zip(names, past or (), strict=past is not None):
                state[name] = self._newest(values.unflatten(1, (num_past + num_chunks, num_latents)))
        if stream_cache is not None:
            state["temporal_mask"] = self._newest(chunk_mask)
        latents = self.norm(hidden_states).unflatten(1, (num_chunks, num_latents))
        return latents, state

    def _newest(self, values: Shaped[Tensor, "batch past_and_chunk *axes"]) -> Shaped[Tensor, "batch kept *axes"]:
        """Return the entries of the chunks that the next one can attend to."""
        window = self.config.window_chunks
        return values if window is None else values[:, max(values.shape[1] - window + 1, 0) :]


class MirasolNextChunkHeads(nn.Module):
    """x^_{t+1} = D(h_t): from a chunk's latents, the next chunk's combined features, small video and small log-mel."""

    def __init__(self, config: MirasolConfig):
        super().__init__()
        temporal = config.temporal_config
        hidden_size = temporal.hidden_size
        self.video_size = tuple(temporal.predicted_video_size)
        self.audio_size = tuple(temporal.predicted_audio_size)
        self.features = nn.Sequential(
            nn.Linear(hidden_size, temporal.intermediate_size),
            nn.GELU(),
            nn.Linear(temporal.intermediate_size, hidden_size),
        )
        self.video = nn.Linear(hidden_size, config.video_config.num_channels * prod(self.video_size))
        if config.use_audio:
            self.audio = nn.Linear(hidden_size, prod(self.audio_size))

    def forward(self, latents: Float[Tensor, "batch chunk latent dim"]) -> Float[Tensor, "batch chunk latent dim"]:
        return self.features(latents)

    def predict_video(
        self, latents: Float[Tensor, "batch chunk latent dim"]
    ) -> Float[Tensor, "batch chunk frame channel height width"]:
        frames, height, width = self.video_size
        pixels = self.video(latents.mean(dim=2))
        return rearrange(pixels, "batch chunk (f c h w) -> batch chunk f c h w", f=frames, h=height, w=width)

    def predict_audio(
        self, latents: Float[Tensor, "batch chunk latent dim"]
    ) -> Float[Tensor, "batch chunk mel_frame mel"]:
        return rearrange(self.audio(latents.mean(dim=2)), "batch chunk (t f) -> batch chunk t f", t=self.audio_size[0])


def surprise(
    predicted: Float[Tensor, "batch chunk latent dim"],
    combined: Float[Tensor, "batch chunk latent dim"],
    chunk_mask: Bool[Tensor, "batch chunk"],
    feature_mean: Float[Tensor, "latent dim"],
    stream_cache: dict[str, Tensor] | None = None,
) -> Float[Tensor, "batch chunk"]:
    """Return 1 - cos(predicted, actual) of every chunk, minus the running mean; 0 without a real pair.

    The prediction for the first chunk is taken from the stream cache, if there is one.
    """
    if stream_cache:
        before, was_real = stream_cache["prediction"][:, None], stream_cache["prediction_mask"][:, None]
    else:
        before, was_real = torch.zeros_like(predicted[:, :1]), torch.zeros_like(chunk_mask[:, :1])
    expected = torch.cat([before, predicted], dim=1)[:, :-1]
    cosine = nn.functional.cosine_similarity(expected - feature_mean, combined - feature_mean, dim=-1)
    real = chunk_mask & torch.cat([was_real, chunk_mask], dim=1)[:, :-1]
    return torch.where(real, 1 - cosine.mean(dim=-1), 0.0)


def collapse_statistics(
    combined: Float[Tensor, "batch chunk latent dim"], chunk_mask: Bool[Tensor, "batch chunk"], feature_mean
) -> dict[str, Tensor]:
    """Measure collapse of the features less their running mean: `spread`, `chunk_cosine`, `effective_rank`.

    spread: norm of the centred features over the norm of the features; 0 if all chunks are one point. The other two
        cannot detect that, because centring leaves only rounding noise of random direction.
    chunk_cosine: mean cosine between chunks, near 1 when all deviate from the mean in the same direction.
    effective_rank: exponential of the entropy of the spectrum, near 1 when they lie on one line.
    """
    features = combined[chunk_mask].flatten(1).float()
    centred = (combined - feature_mean)[chunk_mask].flatten(1).float()
    unit = nn.functional.normalize(centred, dim=-1)
    count = unit.shape[0]
    spectrum = torch.linalg.svdvals(centred).square()
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    return {
        "spread": centred.norm() / features.norm().clamp_min(1e-12),
        "chunk_cosine": (unit.sum(dim=0).square().sum() - count) / max(count * (count - 1), 1),
        "effective_rank": torch.exp(-(share * share.clamp_min(1e-12).log()).sum()),
    }
