"""Attribution of an answer to the chunks of a clip: cross-attention, or what the answer loses without the chunk."""

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
    "leave_one_out": "how much the answer loses when a chunk is taken away",
}
DEFAULT_METHOD = "attention"  # its top chunk is on the asked word more often than that of leaving chunks out
MARGIN_SECONDS = 0.16  # a chunk this close to the asked word counts as on it


class Evidence(Result):
    """Seconds of one chunk, and its share (0 to 1) of what the answer is attributed to."""

    start: float
    end: float
    weight: float


def eager_twin(model):
    """Return a model with the same weights whose decoder computes attention step by step.

    Fused kernels do not give their weights out. The model itself stays as it is, because other threads may use it.
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
    """Return each chunk's share of cross-attention, averaged over layers, heads and places that predict answers."""
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
    """Return each chunk's share of cross-attention while the answer is written, by an `eager_twin`.

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
    """Return each chunk's share of the loss in the answer's log-probability when its picture and sound are masked.

    Every real chunk is masked in turn and the clip encoded anew, because later chunks carry what earlier ones showed.
    A chunk whose loss helps the answer has weight 0; if none hurts, the weight is spread evenly over the real ones.
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
    """Return the `count` heaviest real chunks, heaviest first."""
    order = torch.where(real, weights, -1.0).argsort(descending=True, stable=True)[: min(count, int(real.sum()))]
    return [
        Evidence(start=float(chunk_times[i, 0]), end=float(chunk_times[i, 1]), weight=float(weights[i]))
        for i in order.tolist()
    ]


def overlaps(chunk_times: Float[Tensor, "chunk 2"], seconds: tuple[float, float]) -> Bool[Tensor, " chunk"]:
    """Return which chunks touch the interval of seconds, widened by 0.16 s on both sides."""
    start, end = rearrange(chunk_times, "chunk edge -> edge chunk")
    return (start < seconds[1] + MARGIN_SECONDS) & (end > seconds[0] - MARGIN_SECONDS)
