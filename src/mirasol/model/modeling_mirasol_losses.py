"""The losses of next-chunk prediction, each over the pairs of neighbouring real chunks."""

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn


def next_chunk_pairs(mask: Bool[Tensor, "batch chunk"]) -> Bool[Tensor, "batch pair"]:
    """Chunk t predicts chunk t + 1 where both are real."""
    return mask[:, :-1] & mask[:, 1:]


def masked_mean(values: Float[Tensor, "batch pair"], mask: Bool[Tensor, "batch pair"]) -> Float[Tensor, ""]:
    """Mean over the real pairs; 0, with a gradient path, if there is none."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def cosine_loss(
    predicted: Float[Tensor, "batch chunk latent dim"],
    target: Float[Tensor, "batch chunk latent dim"],
    mask: Bool[Tensor, "batch chunk"],
) -> Float[Tensor, ""]:
    """1 - cosine between the prediction and the next chunk's features; the target gives no gradient."""
    cosine = nn.functional.cosine_similarity(predicted[:, :-1].float(), target[:, 1:].detach().float(), dim=-1)
    return masked_mean(1 - cosine.mean(dim=-1), next_chunk_pairs(mask))


def spread_losses(
    combined: Float[Tensor, "batch chunk latent dim"], mask: Bool[Tensor, "batch chunk"], minimum_std: float = 0.5
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Variance and covariance terms (VICReg, arXiv 2105.04906) that keep the features apart from chunk to chunk.

    A detached target alone lets all chunks become one vector, whose cosine is perfect. The variance term asks every
    dimension of every slot to vary over the real chunks of the batch; the covariance term, that dimensions differ.
    """
    features = combined.float()[mask]  # real chunk, latent, dim
    if features.shape[0] < 2:
        return features.sum() * 0, features.sum() * 0
    features = features - features.mean(dim=0)
    variance = features.square().sum(dim=0) / (features.shape[0] - 1)
    variance_loss = torch.relu(minimum_std - (variance + 1e-4).sqrt()).mean()
    samples = rearrange(features, "chunk latent dim -> (chunk latent) dim")
    covariance = samples.T @ samples / (samples.shape[0] - 1)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return variance_loss, off_diagonal.square().sum() / covariance.shape[0]


def small_video(
    pixel_values: Float[Tensor, "batch chunk frame channel height width"], size: tuple[int, int, int]
) -> Float[Tensor, "batch chunk small_frame channel small_height small_width"]:
    """The chunk's video averaged down to `size` (frames, height, width)."""
    frames, height, width = size
    return reduce(pixel_values, "b c (f df) ch (h dh) (w dw) -> b c f ch h w", "mean", f=frames, h=height, w=width)


def small_audio(
    input_features: Float[Tensor, "batch chunk mel_frame mel"], size: tuple[int, int]
) -> Float[Tensor, "batch chunk small_frame small_mel"]:
    """The chunk's log-mel averaged down to `size` (columns, bands)."""
    return reduce(input_features, "b c (t dt) (f df) -> b c t f", "mean", t=size[0], f=size[1])


def reconstruction_loss(
    predicted: Float[Tensor, "batch chunk *axes"], target: Float[Tensor, "batch chunk *axes"], mask
) -> Float[Tensor, ""]:
    """Mean squared error between the prediction and the next chunk's small video or log-mel."""
    error = (predicted[:, :-1].float() - target[:, 1:].float()).square().flatten(2).mean(dim=-1)
    return masked_mean(error, next_chunk_pairs(mask))
