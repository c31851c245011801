"""Attribution of an answer to the chunks of a clip, by cross-attention or by leaving each chunk out."""

import copy
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mirasol.answer.generation import label_log_probabilities
from mirasol.chunks.text import IGNORED_LABEL
from mirasol.results import Result

METHODS = {
    "attention": "cross-attention to each chunk",
    "leave_one_out": "loss of log-probability without the chunk",
}
DEFAULT_METHOD = "attention"  # its top chunk contains the asked word more often than that of leave_one_out
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


def answer_log_probability(
    logits: Float[Tensor, "row token vocab"], labels: Int[Tensor, "row token"]
) -> Float[Tensor, " row"]:
    """Return the mean log-probability of each row's answer tokens (labels already shifted, -100 ignored)."""
    return label_log_probabilities(logits, labels).sum(1) / (labels != IGNORED_LABEL).sum(1).clamp(min=1)


@torch.no_grad()
def attention_weights(twin, encoder_outputs, text: Mapping[str, Tensor]) -> Float[Tensor, "row chunk"]:
    """Return each chunk's share of the answer tokens' cross-attention in an `eager_twin`.

    `text` holds decoder_input_ids with the answer, their mask and labels.
    """
    outputs = twin(
        encoder_outputs=encoder_outputs,
        decoder_input_ids=text["decoder_input_ids"],
        decoder_attention_mask=text["decoder_attention_mask"],
        output_attentions=True,
        use_cache=False,
    )
    num_chunks = encoder_outputs.chunk_times.shape[1]
    return chunk_attention(outputs.cross_attentions, text["labels"] != IGNORED_LABEL, num_chunks)


@torch.no_grad()
def leave_one_out_weights(model, media: dict[str, Tensor], text: Mapping[str, Tensor]) -> Float[Tensor, "row chunk"]:
    """Return chunk weights in proportion to the log-probability that the answer loses without the chunk.

    Each real chunk is masked in turn and the clip is encoded again, because later latents depend on earlier chunks.
    The weight is 0 if masking raises the log-probability; if it never lowers it, all real chunks get equal weights.
    """
    real = media["video_chunk_mask"] | media["audio_chunk_mask"]
    num_rows = text["decoder_input_ids"].shape[0]
    questions = num_rows // real.shape[0]

    def log_probability(masks: dict) -> Float[Tensor, " row"]:
        outputs = model(
            encoder_outputs=model.get_encoder()(**(media | masks)),
            decoder_input_ids=text["decoder_input_ids"],
            decoder_attention_mask=text["decoder_attention_mask"],
            use_cache=False,
        )
        return answer_log_probability(outputs.logits, text["labels"])

    whole = log_probability({})
    drops = torch.zeros(num_rows, real.shape[1], device=whole.device)
    for chunk in range(real.shape[1]):
        if not real[:, chunk].any():
            continue
        keep = torch.ones_like(real)
        keep[:, chunk] = False
        masks = {name: media[name] & keep for name in ("video_chunk_mask", "audio_chunk_mask")}
        drops[:, chunk] = whole - log_probability(masks)
    real_rows = repeat(real, "clip chunk -> (clip question) chunk", question=questions)
    drops = drops.clamp(min=0) * real_rows
    even = real_rows / real_rows.sum(1, keepdim=True).clamp(min=1)
    total = drops.sum(1, keepdim=True)
    return torch.where(total > 0, drops / total.clamp(min=1e-12), even)


def top_evidence(
    weights: Float[Tensor, " chunk"],
    chunk_times: Float[Tensor, "chunk 2"],
    real: Bool[Tensor, " chunk"],
    count: int = 3,
) -> list[Evidence]:
    """Return the `count` real chunks with the most weight, in descending order."""
    order = torch.where(real, weights, -1.0).argsort(descending=True, stable=True)[: min(count, int(real.sum()))]
    return [
        Evidence(start=float(chunk_times[i, 0]), end=float(chunk_times[i, 1]), weight=float(weights[i]))
        for i in order.tolist()
    ]


def overlaps(chunk_times: Float[Tensor, "chunk 2"], seconds: tuple[float, float]) -> Bool[Tensor, " chunk"]:
    """Return a mask of the chunks that overlap the interval, widened by `MARGIN_SECONDS` on both sides."""
    start, end = rearrange(chunk_times, "chunk edge -> edge chunk")
    return (start < seconds[1] + MARGIN_SECONDS) & (end > seconds[0] - MARGIN_SECONDS)
