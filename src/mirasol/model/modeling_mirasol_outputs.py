"""Outputs of the models: latents of the clips, and losses, logits and caches of the text."""

from dataclasses import dataclass

from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutput, ModelOutput

try:
    from transformers.utils.output_capturing import OutputRecorder, capture_outputs
except ImportError:  # transformers calls the module private: without it, encoders give no hidden states or attentions

    def OutputRecorder(*args, **kwargs):  # type: ignore[no-redef]  # noqa: N802
        return None

    def capture_outputs(forward):  # type: ignore[misc]  # in place of theirs
        return forward


MEDIA = ("pixel_values_videos", "input_features", "video_chunk_mask", "audio_chunk_mask", "chunk_times")


def need_clips(given: dict, use_audio: bool) -> None:
    """Raises ValueError if an input of the encoder is not among the `given` ones."""
    needed = MEDIA if use_audio else [name for name in MEDIA if name not in ("input_features", "audio_chunk_mask")]
    if missing := [name for name in needed if given.get(name) is None]:
        raise ValueError(
            f"Expected clips or encoder_outputs, found no {', '.join(missing)}. Pass all that the processor gives: it "
            f"masks what a clip does not have."
        )


@dataclass
class MirasolEncoderOutput(BaseModelOutput):
    """Output of the time-aligned model for a batch of clips; reuse it as `encoder_outputs` to ask many questions.

    Args:
        last_hidden_state: latents h, [batch chunk*latent dim].
        chunk_mask: chunks with picture or sound, True = real, [batch chunk].
        chunk_times: start and end of each chunk in seconds, [batch chunk 2].
        combined_features: Combiner outputs x, [batch chunk latent dim].
        predicted_features: prediction of the next chunk's `combined_features`, [batch chunk latent dim].
        surprise: 1 - cos(predicted, actual) per chunk, 0 where there is no earlier chunk, [batch chunk].
        projected: keys and values of the latents in the text decoder, where a stream has projected them already,
            [batch chunk 2*layer latent dim].
        stream_cache: what the next chunks of the streams need, when streaming.
        hidden_states, attentions: of the temporal model's layers, when asked for.
    """

    # Always given; the defaults are there because a field before them has one.
    last_hidden_state: Tensor = None  # type: ignore[assignment]
    chunk_mask: Tensor = None  # type: ignore[assignment]
    chunk_times: Tensor = None  # type: ignore[assignment]
    combined_features: Tensor | None = None
    predicted_features: Tensor | None = None
    surprise: Tensor | None = None
    projected: Tensor | None = None
    stream_cache: dict[str, Tensor] | None = None


@dataclass
class MirasolOutput(ModelOutput):
    """Output of `MirasolForConditionalGeneration`: `loss` is the weighted sum of the losses beside it.

    Hidden states and attentions are given when asked for; those of the encoder are the temporal model's.
    """

    loss: Tensor | None = None
    text_loss: Tensor | None = None
    latent_loss: Tensor | None = None
    video_loss: Tensor | None = None
    audio_loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple | None = None
    decoder_attentions: tuple | None = None
    cross_attentions: tuple | None = None
    encoder_outputs: MirasolEncoderOutput | None = None
    encoder_hidden_states: tuple | None = None
    encoder_attentions: tuple | None = None
