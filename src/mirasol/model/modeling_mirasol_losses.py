"""Losses: text over answer tokens, next-chunk prediction over pairs of neighbouring real chunks.

Each is a sum over its targets divided by their number in the whole batch. A batch may be divided into micro-batches or
ranks: given the counts of the whole batch (summed `count_targets`), losses and gradients of the parts add up to its
own, even if the parts are unequal.
"""

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d


def next_chunk_pairs(mask: Bool[Tensor, "batch chunk"]) -> Bool[Tensor, "batch pair"]:
    """Chunk t predicts chunk t + 1 where both are real."""
    return mask[:, :-1] & mask[:, 1:]


def count_targets(
    labels: Int[Tensor, "row token"], video_mask: Bool[Tensor, "batch chunk"], audio_mask: Bool[Tensor, "batch chunk"]
) -> Int[Tensor, " 4"]:
    """Count the targets in a part of a batch: answer tokens, and pairs of real chunks, video chunks, audio chunks.

    Summed over the parts, `counts[0]` is `num_items_in_batch` and `counts[1:]` is `num_pairs_in_batch` of `forward`.
    """
    masks = video_mask | audio_mask, video_mask, audio_mask
    return torch.stack([labels.ne(-100).sum(), *(next_chunk_pairs(mask).sum() for mask in masks)])


def text_loss(
    logits: Float[Tensor, "row token vocab"], labels: Int[Tensor, "row token"], total: Num[Tensor, ""]
) -> Float[Tensor, ""]:
    """Cross-entropy of the labels other than -100 over `total`; 0, with a gradient path, if there is none."""
    entropy = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
    )
    return entropy / total.clamp_min(1)


def masked_mean(
    values: Float[Tensor, "batch pair"], mask: Bool[Tensor, "batch pair"], total: Num[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """Sum over the real pairs over `total`, by default their number; 0, with a gradient path, if there is none."""
    return (values * mask).sum() / (mask.sum() if total is None else total).clamp_min(1)


def cosine_loss(
    predicted: Float[Tensor, "batch chunk latent dim"],
    target: Float[Tensor, "batch chunk latent dim"],
    mask: Bool[Tensor, "batch chunk"],
    total: Num[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """1 - cosine between the prediction and the next chunk's features; the target gives no gradient."""
    cosine = nn.functional.cosine_similarity(predicted[:, :-1].float(), target[:, 1:].detach().float(), dim=-1)
    return masked_mean(1 - cosine.mean(dim=-1), next_chunk_pairs(mask), total)


def spread_losses(
    combined: Float[Tensor, "batch chunk latent dim"], mask: Bool[Tensor, "batch chunk"], minimum_std: float = 0.5
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Variance and covariance terms (VICReg, arXiv 2105.04906) that keep the features apart from chunk to chunk.

    With a detached target alone all chunks can collapse to one vector, at a perfect cosine. The variance term makes
    every dimension of every slot vary over the real chunks of the batch; the covariance term decorrelates dimensions.
    """
    # Masking with zeros, because indexing the real chunks would synchronise host and device.
    count, real = mask.sum(), mask[..., None, None]
    features = torch.where(real, combined.float(), 0.0)
    features = torch.where(real, features - features.sum(dim=(0, 1)) / count.clamp_min(1), 0.0)
    features = rearrange(features, "batch chunk latent dim -> (batch chunk) latent dim")
    variance = features.square().sum(dim=0) / (count - 1).clamp_min(1)
    variance_loss = torch.relu(minimum_std - (variance + 1e-4).sqrt()).mean() * (count > 1)
    samples = rearrange(features, "chunk latent dim -> (chunk latent) dim")
    covariance = samples.T @ samples / (count * combined.shape[2] - 1).clamp_min(1)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return variance_loss, off_diagonal.square().sum() / covariance.shape[0]


def small_video(
    pixel_values: Float[Tensor, "batch chunk frame channel height width"], size: tuple[int, int, int]
) -> Float[Tensor, "batch chunk small_frame channel small_height small_width"]:
    """The chunk's video averaged down to `size` (frames, height, width)."""
    frames, height, width = size
    fewer = reduce(pixel_values, "b c (f df) ch h w -> b c f ch h w", "mean", f=frames)
    window = fewer.shape[-2] // height, fewer.shape[-1] // width
    return avg_pool2d(fewer.flatten(0, 3), window).unflatten(0, fewer.shape[:4])  # all axes at once: 5 times slower


def small_audio(
    input_features: Float[Tensor, "batch chunk mel_frame mel"], size: tuple[int, int]
) -> Float[Tensor, "batch chunk small_frame small_mel"]:
    """The chunk's log-mel averaged down to `size` (columns, bands)."""
    return reduce(input_features, "b c (t dt) (f df) -> b c t f", "mean", t=size[0], f=size[1])


def reconstruction_loss(
    predicted: Float[Tensor, "batch chunk *axes"],
    target: Float[Tensor, "batch chunk *axes"],
    mask: Bool[Tensor, "batch chunk"],
    total: Num[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error between the prediction and the next chunk's small video or log-mel."""
    error = (predicted[:, :-1].float() - target[:, 1:].float()).square().flatten(2).mean(dim=-1)
    return masked_mean(error, next_chunk_pairs(mask), total)
