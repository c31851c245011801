"""The encoder: media -> latents of every chunk, for whole clips and for streams."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, distributed, nn

from .configuration_mirasol import MirasolConfig
from .modeling_mirasol_base import MirasolPreTrainedModel
from .modeling_mirasol_combiner import MirasolMeanPoolCombiner, MirasolTransformerCombiner
from .modeling_mirasol_encoders import MirasolAudioEncoder, MirasolVideoEncoder
from .modeling_mirasol_layers import MirasolEncoderLayer, MirasolSelfAttention
from .modeling_mirasol_outputs import MirasolEncoderOutput, OutputRecorder, capture_outputs
from .modeling_mirasol_queries import MirasolLearnedTokensCombiner, MirasolPerceiverCombiner
from .modeling_mirasol_stream import MirasolStreamCache
from .modeling_mirasol_temporal import MirasolNextChunkHeads, MirasolTemporalModel, surprise
from .modeling_mirasol_ttm import MirasolTokenTuringCombiner

COMBINERS = {
    "transformer": MirasolTransformerCombiner,
    "ttm": MirasolTokenTuringCombiner,
    "perceiver": MirasolPerceiverCombiner,
    "learned_tokens": MirasolLearnedTokensCombiner,
    "mean_pool": MirasolMeanPoolCombiner,
}


class MirasolEncoder(MirasolPreTrainedModel):
    """Everything up to the latents: media in, `MirasolEncoderOutput` out."""

    _can_record_outputs = {
        "hidden_states": OutputRecorder(MirasolEncoderLayer, layer_name="temporal_model"),
        "attentions": OutputRecorder(MirasolSelfAttention, index=1, layer_name="temporal_model"),
    }

    feature_mean: Tensor

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        self.video_encoder = MirasolVideoEncoder(config.video_config)
        if config.use_audio:
            shared = self.video_encoder if config.share_encoder else None
            self.audio_encoder = MirasolAudioEncoder(config.audio_config, shared)
        self.combiner = COMBINERS[config.combiner_config.combiner_type](config)
        self.temporal_model = MirasolTemporalModel(config)
        self.next_chunk = MirasolNextChunkHeads(config)
        mean = torch.zeros(config.num_latents, config.combiner_config.hidden_size, dtype=torch.float32)
        self.register_buffer("feature_mean", mean)
        self.post_init()

    def _apply(self, fn, recurse=True):
        """Keep the running mean in fp32 for any dtype of the weights: bf16 loses its steps of 1 %."""
        mean = self.feature_mean
        super()._apply(fn, recurse)
        if self.feature_mean.dtype != torch.float32:
            device = self.feature_mean.device
            self.feature_mean = torch.empty_like(mean, device=device) if mean.is_meta else mean.to(device)
        return self

    @capture_outputs
    def forward(
        self,
        pixel_values_videos: Float[Tensor, "batch chunk frame channel height width"],
        video_chunk_mask: Bool[Tensor, "batch chunk"],
        chunk_times: Float[Tensor, "batch chunk 2"],
        input_features: Float[Tensor, "batch chunk mel_frame mel"] | None = None,
        audio_chunk_mask: Bool[Tensor, "batch chunk"] | None = None,
        video_chunk_index: Int[Tensor, " real"] | None = None,
        audio_chunk_index: Int[Tensor, " real_audio"] | None = None,
        stream_cache: MirasolStreamCache | None = None,
        **kwargs,
    ) -> MirasolEncoderOutput:
        """Encode whole clips, or the next chunks of streams; the latents do not depend on how a clip is divided.

        Args:
            pixel_values_videos: frames, zeros where not real.
            video_chunk_mask, audio_chunk_mask: True where the chunk holds picture, sound.
            chunk_times: start and end of each chunk in seconds.
            input_features: log-mel, zeros where not real. A video-only model needs none and refuses real ones.
            video_chunk_index, audio_chunk_index: indices of the real chunks on the flattened (batch chunk) axis, from
                the collator; only these are computed. Without them every chunk is computed and masked.
            stream_cache: state after the earlier chunks, empty at the start; the output then has the next one. None
                for whole clips.
        """
        if not self.config.use_audio:
            refuse_sound(audio_chunk_mask)
            input_features, audio_chunk_mask = None, torch.zeros_like(video_chunk_mask)
        assert audio_chunk_mask is not None, "a model with audio takes its mask"
        if stream_cache and len(stream_cache["prediction"]) != len(video_chunk_mask):
            raise ValueError(
                f"Expected a chunk of each of the {len(stream_cache['prediction'])} streams in stream_cache, found "
                f"{len(video_chunk_mask)} rows. Take the rows of those that advance: stream_cache.rows([...])."
            )
        self._check_media(pixel_values_videos, input_features, video_chunk_mask, audio_chunk_mask, chunk_times)
        video_features = run_real_chunks(self.video_encoder, pixel_values_videos.to(self.dtype), video_chunk_index)
        audio_features = None
        if self.config.use_audio:
            assert input_features is not None, "a model with audio takes its log-mel"
            audio_features = run_real_chunks(self.audio_encoder, input_features.to(self.dtype), audio_chunk_index)
        combined, state = self.combiner(
            video_features, audio_features, video_chunk_mask, audio_chunk_mask, stream_cache or None
        )
        chunk_mask = video_chunk_mask | audio_chunk_mask
        if self.training and combined.requires_grad:  # a frozen encoder's features do not change
            self._update_feature_mean(combined, chunk_mask)
        latents, temporal_state = self.temporal_model(combined, chunk_mask, stream_cache)
        predicted = self.next_chunk(latents)
        output = MirasolEncoderOutput(
            last_hidden_state=rearrange(latents, "batch chunk latent dim -> batch (chunk latent) dim"),
            chunk_mask=chunk_mask,
            chunk_times=chunk_times,
            combined_features=combined,
            predicted_features=predicted,
            surprise=surprise(predicted.detach(), combined.detach(), chunk_mask, self.feature_mean, stream_cache),
        )
        if stream_cache is not None:
            state |= {**temporal_state, "prediction": predicted[:, -1], "prediction_mask": chunk_mask[:, -1]}
            state = {name: value.detach() for name, value in state.items()}
            output.stream_cache = MirasolStreamCache({**stream_cache, **state})
        return output

    @torch.no_grad()
    def _update_feature_mean(self, combined, chunk_mask):
        """Move the running mean towards the mean of the real chunks of all ranks."""
        total = combined.detach().float().mul(chunk_mask[..., None, None]).sum(dim=(0, 1))
        total = torch.cat([total.flatten(), chunk_mask.sum()[None].float()])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(total)
        mean = total[:-1].unflatten(0, self.feature_mean.shape) / total[-1].clamp_min(1)
        self.feature_mean.lerp_(mean, self.config.temporal_config.feature_mean_momentum * total[-1].clamp_max(1))

    def _check_media(self, pixel_values_videos, input_features, *masks_and_times):
        config = self.config
        values = [x for x in (pixel_values_videos, input_features) if x is not None]
        batch_and_chunks = [x.shape[:2] for x in (*values, *masks_and_times)]
        # Compared one by one: a set of sizes would make a compiled graph for each number of chunks.
        if any(size != batch_and_chunks[0] for size in batch_and_chunks):
            raise ValueError(
                f"pixel_values_videos, input_features, video_chunk_mask, audio_chunk_mask and chunk_times must agree "
                f"in (batch, chunk), found {[tuple(size) for size in batch_and_chunks]}. Pad clips "
                f"with the collator, which pads all of them."
            )
        found = tuple(tuple(x.shape[2:]) for x in values)
        size = config.image_size
        expected = (
            (config.num_frames_per_chunk, config.video_config.num_channels, size, size),
            (config.num_mel_frames_per_chunk, config.num_mel_bins),
        )
        if found != expected[: len(found)]:
            raise ValueError(
                f"Each chunk must hold frames of shape {expected[0]} (frame channel height width) and log-mel of "
                f"shape {expected[1]} (mel_frame mel), found {' and '.join(map(str, found))}. Use the processor saved "
                f"with this model."
            )


def refuse_sound(audio_chunk_mask: Bool[Tensor, "batch chunk"] | None) -> None:
    """Raise ValueError if a video-only model gets sound, which it would ignore. Not checked when compiled."""
    if audio_chunk_mask is None or torch.compiler.is_compiling() or not audio_chunk_mask.any():
        return
    raise ValueError(
        f"A video-only model (use_audio=False) takes no sound, found sound in {int(audio_chunk_mask.sum())} of "
        f"{audio_chunk_mask.numel()} chunks. Pass use_audio=False to the processor (`--no-audio`, `--condition "
        f"picture`, or data.augmentation.picture_only_probability=1 in a recipe), or take a model that hears."
    )


def run_real_chunks(
    tower: nn.Module, values: Float[Tensor, "batch chunk *size"], index: Int[Tensor, " real"] | None
) -> Float[Tensor, "batch chunk token dim"]:
    """Encode the chunks at `index` (default: all) and scatter the features to their rows, zeros elsewhere.

    Without a real chunk one dummy is encoded and zeroed: every tower runs on every rank at every step, or sharded
    training deadlocks.
    """
    size, values = values.shape[:2], values.flatten(0, 1)
    if index is None:
        return tower(values).unflatten(0, size)
    is_dummy = index.numel() == 0
    if is_dummy:
        index = index.new_zeros(1)
    features = tower(values[index])
    if is_dummy:
        features = features.masked_fill(torch.ones_like(features, dtype=torch.bool), 0.0)
    rows = features.new_zeros(values.shape[0], *features.shape[1:]).index_copy(0, index, features)
    return rows.unflatten(0, size)
