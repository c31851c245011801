"""Mirasol, assembled: chunks -> encoders -> Combiner -> temporal model -> latents -> text decoder."""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_mirasol import MirasolConfig
from .modeling_mirasol_combiner import MirasolMeanPoolCombiner, MirasolTransformerCombiner
from .modeling_mirasol_decoder import MirasolDecoderLayer, MirasolTextDecoder
from .modeling_mirasol_encoders import MirasolAudioEncoder, MirasolVideoEncoder, MirasolWindowEmbedding
from .modeling_mirasol_layers import MirasolEncoderLayer, MirasolSelfAttention
from .modeling_mirasol_losses import cosine_loss, reconstruction_loss, small_audio, small_video, spread_losses
from .modeling_mirasol_outputs import MirasolEncoderOutput, MirasolOutput
from .modeling_mirasol_temporal import MirasolNextChunkHeads, MirasolTemporalModel, surprise
from .modeling_mirasol_ttm import (
    MirasolQuerySummary,
    MirasolSummaryMLP,
    MirasolTokenTuringCombiner,
    MirasolTokenTuringUnit,
)

COMBINERS = {
    "transformer": MirasolTransformerCombiner,
    "ttm": MirasolTokenTuringCombiner,
    "mean_pool": MirasolMeanPoolCombiner,
}
# Modules whose own parameters are embeddings, queries or placeholders
EMBEDDINGS = (MirasolTransformerCombiner, MirasolMeanPoolCombiner, MirasolTokenTuringUnit, MirasolQuerySummary)


class MirasolPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by all Mirasol models."""

    config_class = MirasolConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values_videos"
    # And video; but where it is named, transformers' pipeline wants torchvision, which only its own processors need.
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["MirasolEncoderLayer", "MirasolDecoderLayer"]
    _supports_sdpa = True
    _can_compile_fullgraph = True

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        # Attention modules hold their part's config, which a constructor call leaves unset.
        for part in (getattr(config, key) for key in config.sub_configs):
            if part._attn_implementation is None:
                part._attn_implementation = config._attn_implementation

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """The saved model; a `config` with a part of another width than the saved one is refused."""
        if isinstance(config, MirasolConfig) and pretrained_model_name_or_path is not None:
            where = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
            saved = MirasolConfig.from_pretrained(pretrained_model_name_or_path, **where)
            if not kwargs.get("ignore_mismatched_sizes"):
                _require_equal_widths(config, saved, pretrained_model_name_or_path)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, EMBEDDINGS):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, std=std)
        elif isinstance(module, MirasolSummaryMLP):
            # As in the reference: at a small spread all summaries start as the same mean.
            init.xavier_uniform_(module[0].weight)
            init.xavier_uniform_(module[2].weight)
        elif isinstance(module, MirasolTemporalModel):
            init.normal_(module.slot_embedding, std=std)
            init.normal_(module.mask_embedding, std=std)
        elif isinstance(module, MirasolWindowEmbedding):
            # Windows hold up to thousands of values: keep their sum of order one.
            for projection in module.projections:
                init.normal_(projection.weight, std=projection.in_features**-0.5)
            for table in (module.prefix_tokens, module.position_embedding):
                if table is not None:
                    init.normal_(table, std=std)
        elif isinstance(module, MirasolDecoderLayer):
            init.constant_(module.cross_attention_gate, self.config.text_config.cross_attention_gate_init)
        elif isinstance(module, MirasolEncoder):
            init.zeros_(module.feature_mean)


HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def _require_equal_widths(config: MirasolConfig, saved: MirasolConfig, name) -> None:
    for part in config.sub_configs:
        found, expected = getattr(config, part).hidden_size, getattr(saved, part).hidden_size
        if found != expected:
            raise ValueError(
                f"Expected {part}.hidden_size={expected}, the width of the weights in {name}, found {found} in the "
                f"given config. Leave config out, or train a model of the new width from its start."
            )


class MirasolEncoder(MirasolPreTrainedModel):
    """Everything up to the latents: media in, `MirasolEncoderOutput` out."""

    _can_record_outputs = {
        "hidden_states": OutputRecorder(MirasolEncoderLayer, layer_name="temporal_model"),
        "attentions": OutputRecorder(MirasolSelfAttention, index=1, layer_name="temporal_model"),
    }

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        self.video_encoder = MirasolVideoEncoder(config.video_config)
        if config.use_audio:
            shared = self.video_encoder if config.share_encoder else None
            self.audio_encoder = MirasolAudioEncoder(config.audio_config, shared)
        self.combiner = COMBINERS[config.combiner_config.combiner_type](config)
        self.temporal_model = MirasolTemporalModel(config)
        self.next_chunk = MirasolNextChunkHeads(config)
        self.register_buffer("feature_mean", torch.zeros(config.num_latents, config.combiner_config.hidden_size))
        self.post_init()

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
        **kwargs,
    ) -> MirasolEncoderOutput:
        """Latents of every chunk.

        Args:
            pixel_values_videos: frames, zeros where not real.
            video_chunk_mask, audio_chunk_mask: True where the chunk holds picture, sound.
            chunk_times: start and end of each chunk in seconds.
            input_features: log-mel, zeros where not real. A video-only model needs none and refuses real ones.
            video_chunk_index, audio_chunk_index: indices of the real chunks on the flattened (batch chunk) axis, from
                the collator; then only these are computed. Without them every chunk is computed and masked.
        """
        if not self.config.use_audio:
            refuse_sound(audio_chunk_mask)
            input_features, audio_chunk_mask = None, torch.zeros_like(video_chunk_mask)
        self._check_media(pixel_values_videos, input_features, video_chunk_mask, audio_chunk_mask, chunk_times)
        video_features = run_real_chunks(self.video_encoder, pixel_values_videos.to(self.dtype), video_chunk_index)
        audio_features = None
        if self.config.use_audio:
            audio_features = run_real_chunks(self.audio_encoder, input_features.to(self.dtype), audio_chunk_index)
        combined, _ = self.combiner(video_features, audio_features, video_chunk_mask, audio_chunk_mask)
        chunk_mask = video_chunk_mask | audio_chunk_mask
        if self.training:
            self._update_feature_mean(combined, chunk_mask)
        latents = self.temporal_model(combined, chunk_mask)
        predicted = self.next_chunk(latents)
        return MirasolEncoderOutput(
            last_hidden_state=rearrange(latents, "batch chunk latent dim -> batch (chunk latent) dim"),
            chunk_mask=chunk_mask,
            chunk_times=chunk_times,
            combined_features=combined,
            predicted_features=predicted,
            surprise=surprise(predicted.detach(), combined.detach(), chunk_mask, self.feature_mean),
        )

    @torch.no_grad()
    def _update_feature_mean(self, combined, chunk_mask):
        weight = chunk_mask[..., None, None].to(self.feature_mean.dtype)
        mean = (combined.detach() * weight).sum(dim=(0, 1)) / weight.sum().clamp_min(1)
        self.feature_mean.lerp_(mean.to(self.feature_mean.dtype), self.config.temporal_config.feature_mean_momentum)

    def _check_media(self, pixel_values_videos, input_features, *masks_and_times):
        config = self.config
        values = [x for x in (pixel_values_videos, input_features) if x is not None]
        batch_and_chunks = [tuple(x.shape[:2]) for x in (*values, *masks_and_times)]
        if len(set(batch_and_chunks)) > 1:
            raise ValueError(
                f"pixel_values_videos, input_features, video_chunk_mask, audio_chunk_mask and chunk_times must agree "
                f"in (batch, chunk), found {batch_and_chunks}. Pad clips with the collator, which pads all of them."
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
    """Raises if a video-only model is given sound: it would be dropped without a word. Not checked when compiled."""
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
    """Encodes the chunks named by `index` (all without it) and puts them back in their rows, zeros elsewhere.

    Without a real chunk one dummy is encoded, whose output nobody reads: every tower runs on every rank at every step,
    or sharded training deadlocks.
    """
    size, values = values.shape[:2], values.flatten(0, 1)
    if index is None:
        return tower(values).unflatten(0, size)
    if index.numel() == 0:
        index = index.new_zeros(1)
    features = tower(values[index])
    rows = features.new_zeros(values.shape[0], *features.shape[1:]).index_copy(0, index, features)
    return rows.unflatten(0, size)


class MirasolModel(MirasolPreTrainedModel):
    """Encoder of the media and decoder of the text, without the language-model head."""

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        self.encoder = MirasolEncoder(config)
        self.decoder = MirasolTextDecoder(config.text_config, config.temporal_config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module):
        self.decoder.embed_tokens = value

    def get_encoder(self, modality=None) -> nn.Module:
        return self.encoder

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        input_features: Tensor | None = None,
        video_chunk_mask: Tensor | None = None,
        audio_chunk_mask: Tensor | None = None,
        chunk_times: Tensor | None = None,
        video_chunk_index: Tensor | None = None,
        audio_chunk_index: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "row token"] | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: MirasolEncoderOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> MirasolOutput:
        """Hidden states of the text. The rows of text may be k questions for each clip, grouped by clip."""
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if encoder_outputs is None:
            media = {
                "pixel_values_videos": pixel_values_videos,
                "input_features": input_features,
                "video_chunk_mask": video_chunk_mask,
                "audio_chunk_mask": audio_chunk_mask,
                "chunk_times": chunk_times,
            }
            needed = media.keys() - (() if self.config.use_audio else ("input_features", "audio_chunk_mask"))
            if missing := [name for name, value in media.items() if value is None and name in needed]:
                raise ValueError(
                    f"Expected clips or encoder_outputs, found no {', '.join(missing)}. Pass all that the processor "
                    f"gives: it masks what a clip does not have."
                )
            encoder_outputs = self.encoder(
                **media,
                video_chunk_index=video_chunk_index,
                audio_chunk_index=audio_chunk_index,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
            )
        chunk_mask = encoder_outputs.chunk_mask
        if decoder_input_ids is None:
            raise ValueError("Expected decoder_input_ids (or labels), found neither. Pass the tokenised question.")
        if decoder_input_ids.shape[0] % chunk_mask.shape[0]:
            raise ValueError(
                f"The rows of text must be a multiple of the clips (k questions each, grouped by clip), found "
                f"{decoder_input_ids.shape[0]} rows and {chunk_mask.shape[0]} clips."
            )
        use_cache = self.config.text_config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None and not self.training:
            past_key_values = EncoderDecoderCache(
                DynamicCache(config=self.config.text_config), DynamicCache(config=self.config.text_config)
            )
        num_latents = self.config.num_latents
        latents = None
        if past_key_values is None or not past_key_values.is_updated.get(0):  # else their keys and values are cached
            latents = rearrange(
                encoder_outputs.last_hidden_state,
                "batch (chunk latent) dim -> batch chunk latent dim",
                latent=num_latents,
            )
            latents = self.decoder.add_time(latents, encoder_outputs.chunk_times)
        text = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            latents,
            repeat(chunk_mask, "batch chunk -> batch (chunk latent)", latent=num_latents),
            past_key_values=past_key_values,
            output_hidden_states=output_hidden_states,
        )
        return MirasolOutput(
            last_hidden_state=text.last_hidden_state,
            past_key_values=past_key_values if use_cache else None,
            decoder_hidden_states=text.hidden_states,
            decoder_attentions=text.attentions if output_attentions else None,
            cross_attentions=text.cross_attentions if output_attentions else None,
            encoder_outputs=encoder_outputs,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class MirasolForConditionalGeneration(MirasolPreTrainedModel, GenerationMixin):
    """Watches clips with their sound and answers in text (Mirasol3B, arXiv 2311.05698)."""

    _tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}

    def __init__(self, config: MirasolConfig):
        super().__init__(config)
        self.model = MirasolModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module):
        self.lm_head = value

    def get_encoder(self, modality=None) -> nn.Module:
        return self.model.encoder

    def _prepare_decoder_input_ids_for_generation(self, batch_size, model_input_name, model_kwargs, *args, **kwargs):
        """The questions as they are: k of them for each clip, where transformers expects one, padded on the left."""
        if model_kwargs.get("decoder_input_ids") is not None:
            return model_kwargs.pop("decoder_input_ids"), model_kwargs
        return super()._prepare_decoder_input_ids_for_generation(
            batch_size, model_input_name, model_kwargs, *args, **kwargs
        )

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """More rows of text for beams and samples; all rows of a clip share its latents, which are never copied."""
        text = {key: model_kwargs.pop(key) for key in ("decoder_attention_mask",) if key in model_kwargs}
        input_ids, text = super()._expand_inputs_for_generation(expand_size, False, input_ids, **text)
        return input_ids, {**model_kwargs, **text}

    @staticmethod
    def _reorder_cache(past_key_values: EncoderDecoderCache, beam_idx: Int[Tensor, " row"]) -> EncoderDecoderCache:
        """The rows' keys and values in the order of the chosen beams; beams of one clip share those of its latents."""
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values

    def set_objective(self, objective: str) -> None:
        """Sets the loss weights of `pretrain` (text, latent, video = 1, 1, 1) or `finetune` (10, 1, 1)."""
        self.config.set_objective(objective)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Float[Tensor, "batch chunk frame channel height width"] | None = None,
        input_features: Float[Tensor, "batch chunk mel_frame mel"] | None = None,
        video_chunk_mask: Bool[Tensor, "batch chunk"] | None = None,
        audio_chunk_mask: Bool[Tensor, "batch chunk"] | None = None,
        chunk_times: Float[Tensor, "batch chunk 2"] | None = None,
        video_chunk_index: Int[Tensor, " real"] | None = None,
        audio_chunk_index: Int[Tensor, " real_audio"] | None = None,
        decoder_input_ids: Int[Tensor, "row token"] | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Int[Tensor, "row token"] | None = None,
        encoder_outputs: MirasolEncoderOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> MirasolOutput:
        """Logits, and the losses when `labels` are given.

        Args:
            decoder_input_ids: question and, in training, answer; k rows for each clip, grouped by clip.
            labels: the answer, already shifted (logits at i predict labels at i), -100 where no loss is wanted.
                Without `decoder_input_ids` the decoder reads the labels shifted to the right.
            encoder_outputs: latents of clips watched before; then no media are needed and only the text loss is given.
        """
        if labels is not None and decoder_input_ids is None:
            start = torch.full_like(labels[:, :1], self.config.decoder_start_token_id)
            decoder_input_ids = torch.cat([start, labels[:, :-1]], dim=1)
            decoder_input_ids = decoder_input_ids.masked_fill(decoder_input_ids == -100, self.config.pad_token_id)
        watched_now = encoder_outputs is None
        output = self.model(
            pixel_values_videos=pixel_values_videos,
            input_features=input_features,
            video_chunk_mask=video_chunk_mask,
            audio_chunk_mask=audio_chunk_mask,
            chunk_times=chunk_times,
            video_chunk_index=video_chunk_index,
            audio_chunk_index=audio_chunk_index,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        output.logits = self.lm_head(output.last_hidden_state)
        if labels is not None:
            output.text_loss = self.loss_function(
                logits=output.logits,
                labels=None,
                shift_labels=labels,
                vocab_size=self.config.text_config.vocab_size,
                **kwargs,
            )
            output.loss = self.config.text_weight * output.text_loss
            if watched_now:
                self._add_next_chunk_losses(
                    output, pixel_values_videos, input_features, video_chunk_mask, audio_chunk_mask
                )
        return output

    def _add_next_chunk_losses(self, output, pixel_values_videos, input_features, video_chunk_mask, audio_chunk_mask):
        config, temporal, encoder = self.config, self.config.temporal_config, output.encoder_outputs
        latents = rearrange(
            encoder.last_hidden_state, "batch (chunk latent) dim -> batch chunk latent dim", latent=config.num_latents
        )
        heads = self.model.encoder.next_chunk
        variance_loss, covariance_loss = spread_losses(encoder.combined_features, encoder.chunk_mask)
        output.latent_loss = (
            cosine_loss(encoder.predicted_features, encoder.combined_features, encoder.chunk_mask)
            + temporal.variance_weight * variance_loss
            + temporal.covariance_weight * covariance_loss
        )
        output.video_loss = reconstruction_loss(
            heads.predict_video(latents), small_video(pixel_values_videos, heads.video_size), video_chunk_mask
        )
        output.loss = output.loss + config.latent_weight * output.latent_loss + config.video_weight * output.video_loss
        if config.use_audio:
            output.audio_loss = reconstruction_loss(
                heads.predict_audio(latents), small_audio(input_features, heads.audio_size), audio_chunk_mask
            )
            output.loss = output.loss + config.audio_weight * output.audio_loss
