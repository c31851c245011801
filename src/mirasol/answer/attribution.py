"""Attribution of an answer to the chunks of a clip by cross-attention."""

import copy
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from mirasol.chunks.text import IGNORED_LABEL
from mirasol.results import Result

MARGIN_SECONDS = 0.16  # a chunk this close to a word counts as overlapping it


class Evidence(Result):
    """Seconds of one chunk and its weight (0 to 1) in the attribution of an answer."""

    start: float
    end: float
    weight: float


def eager_twin(model):
    """Return a copy that shares the weights and whose decoder uses eager attention.

    Fused kernels do not return attention weights. The model itself is not changed, because other threads may use it.
    """
    shared = [model.model.encoder, *model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(part): part for part in shared})
    twin.config.text_config._attn_implementation = "eager"
    return twin


def chunk_attention(
    cross_attentions: Sequence[Float[Tensor, "row head token chunk_latent"]],
    answer_mask: Bool[Tensor, "row token"],
    num_chunks: int,
) -> Float[Tensor, "row chunk"]:
    """Return each chunk's share of cross-attention, averaged over layers, heads and answer tokens."""
    per_token = reduce(
        torch.stack(list(cross_attentions)).float(),
        "layer row head token (chunk latent) -> row token chunk",
        "sum",
        chunk=num_chunks,
    ) / (len(cross_attentions) * cross_attentions[0].shape[1])
    mask = answer_mask.to(per_token.dtype)
    return torch.einsum("rtc,rt->rc", per_token, mask) / mask.sum(1, keepdim=True).clamp(min=1)


@torch.no_grad()
def attention_weights(twin, encoder_outputs, text: Mapping[str, Tensor]) -> Float[Tensor, "row chunk"]:
    """Return each chunk's share of the answer tokens' cross-attention in an `eager_twin`.

    `text` holds decoder_input_ids with the answer, their mask and labels.
    """
    outputs = twin.model(
        encoder_outputs=encoder_outputs,
        decoder_input_ids=text["decoder_input_ids"],
        decoder_attention_mask=text["decoder_attention_mask"],
        output_attentions=True,
        use_cache=False,
    )
    num_chunks = encoder_outputs.chunk_times.shape[1]
    return chunk_attention(outputs.cross_attentions, text["labels"] != IGNORED_LABEL, num_chunks)


def top_evidence(
    weights: Float[Tensor, " chunk"], chunk_times: Float[Tensor, "chunk 2"], real: Bool[Tensor, " chunk"]
) -> list[Evidence]:
    """Return the three real chunks with the most weight, in descending order."""
    order = torch.where(real, weights, -1.0).argsort(descending=True, stable=True)[: min(3, int(real.sum()))]
    return [
        Evidence(start=float(chunk_times[i, 0]), end=float(chunk_times[i, 1]), weight=float(weights[i]))
        for i in order.tolist()
    ]


def overlaps(chunk_times: Float[Tensor, "chunk 2"], seconds: tuple[float, float]) -> Bool[Tensor, " chunk"]:
    """Return a mask of the chunks that overlap the interval, widened by `MARGIN_SECONDS` on both sides."""
    start, end = rearrange(chunk_times, "chunk edge -> edge chunk")
    return (start < seconds[1] + MARGIN_SECONDS) & (end > seconds[0] - MARGIN_SECONDS)
