"""Mirasol, assembled: chunks -> encoders -> Combiner -> temporal model -> latents -> text decoder."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin
from transformers.utils import can_return_tuple

from .configuration_mirasol import MirasolConfig
from .modeling_mirasol_base import MirasolPreTrainedModel
from .modeling_mirasol_decoder import MirasolTextDecoder
from .modeling_mirasol_encoder import MirasolEncoder
from .modeling_mirasol_losses import (
    cosine_loss,
    next_chunk_pairs,
    reconstruction_loss,
    small_audio,
    small_video,
    spread_losses,
    text_loss,
)
from .modeling_mirasol_outputs import MirasolEncoderOutput, MirasolOutput, need_clips
from .modeling_mirasol_stream import MirasolStreamCache


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
        self.decoder.embed_tokens = value  # type: ignore[assignment]  # an Embedding, which the base does not say

    def get_encoder(self, modality=None) -> nn.Module:
        return self.encoder

    def _by_chunk(self, latents: Float[Tensor, "batch key dim"]) -> Float[Tensor, "batch chunk latent dim"]:
        return latents.unflatten(1, (-1, self.config.num_latents))

    def advance(self, stream_cache: MirasolStreamCache, **media) -> MirasolEncoderOutput:
        """Encode the next chunks of streams and retain their latents for questions.

        Args:
            stream_cache: state after the earlier chunks; `MirasolStreamCache()` at the start. The returned one also
                holds the latents that the text may attend to (`text_config.window_chunks`), with keys and values:
                `generate(encoder_outputs=output.stream_cache.encoder_outputs(), ...)` answers from it.
            media: inputs of the encoder, a row per stream. Pass `chunk_times` in float64 if streams last for days.
        """
        output = self.encoder(**media, stream_cache=stream_cache)
        latents = self._by_chunk(output.last_hidden_state)
        output.stream_cache = output.stream_cache.retain(
            self.config.text_config.window_chunks,
            latents=latents,
            latent_mask=output.chunk_mask,
            latent_times=output.chunk_times,
            projected=self.decoder.project(latents),
        )
        return output

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
            need_clips(media, self.config.use_audio)
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
        text = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            self._by_chunk(encoder_outputs.last_hidden_state),
            chunk_mask,
            encoder_outputs.chunk_times,
            encoder_outputs.projected,
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

    def advance(self, stream_cache: MirasolStreamCache, **media) -> MirasolEncoderOutput:
        """See `MirasolModel.advance`."""
        return self.model.advance(stream_cache, **media)

    def _prepare_model_inputs(self, inputs, bos_token_id, model_kwargs):
        """Check that clips were passed, because generation would call the encoder without them."""
        if model_kwargs.get("encoder_outputs") is None:
            given = model_kwargs if inputs is None else {**model_kwargs, self.main_input_name: inputs}
            need_clips(given, self.config.use_audio)
        return super()._prepare_model_inputs(inputs, bos_token_id, model_kwargs)  # type: ignore[misc]  # narrow `self`

    def _prepare_decoder_input_ids_for_generation(self, batch_size, model_input_name, model_kwargs, *args, **kwargs):
        """Return the left-padded questions unchanged: k per clip, where transformers expects one."""
        prompt, mask = (model_kwargs.pop(name, None) for name in ("prompt_ids", "prompt_attention_mask"))
        question = model_kwargs.pop("decoder_input_ids", None)
        if question is None and prompt is not None:  # Seq2SeqTrainer takes the other away
            question, model_kwargs["decoder_attention_mask"] = prompt, mask
        if question is None:
            raise ValueError(
                "Expected decoder_input_ids, found none. Pass the tokenised question, as the processor gives it; with "
                "Seq2SeqTrainer(predict_with_generate=True) use MirasolCollator(pad_token_id, prompts=True)."
            )
        return question, model_kwargs

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """Repeat rows of text for beams and samples; the rows of a clip share its latents, which are not copied."""
        text = {key: model_kwargs.pop(key) for key in ("decoder_attention_mask",) if key in model_kwargs}
        expand = super()._expand_inputs_for_generation  # type: ignore[misc]  # narrow `self`
        input_ids, text = expand(expand_size, False, input_ids, **text)
        return input_ids, {**model_kwargs, **text}

    @staticmethod
    def _reorder_cache(past_key_values: EncoderDecoderCache, beam_idx: Int[Tensor, " row"]) -> EncoderDecoderCache:
        """Reorder keys and values of the text by beam; beams of a clip share the cross-attention cache."""
        past_key_values.self_attention_cache.reorder_cache(beam_idx)  # type: ignore[arg-type]  # long
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
        num_items_in_batch: Tensor | int | None = None,
        num_pairs_in_batch: Int[Tensor, " 3"] | None = None,
        encoder_outputs: MirasolEncoderOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        prompt_ids: Int[Tensor, "row prompt"] | None = None,
        prompt_attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> MirasolOutput:
        """Logits, and the losses when `labels` are given.

        Args:
            decoder_input_ids: question and, in training, answer; k rows for each clip, grouped by clip.
            labels: the answer, already shifted (logits at i predict labels at i), -100 where no loss is wanted.
                Without `decoder_input_ids` the decoder reads the labels shifted to the right.
            num_items_in_batch, num_pairs_in_batch: tokens and pairs of the whole batch (`count_targets`), if this call
                is a part of it (micro-batch, rank): losses and gradients of the parts then add up to those of the
                whole batch. transformers' Trainer passes the tokens only; the next-chunk losses, means over the part,
                are then weighted by its share of the tokens, as the spread terms of the latent loss always are.
            encoder_outputs: latents of clips encoded before. Media are then not needed; the only loss is the text's.
            prompt_ids, prompt_attention_mask: used by `generate` only, in place of `decoder_input_ids`.
            logits_to_keep: compute the logits of so many last tokens only, as `generate` wants; 0: of all.
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
        output.logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        if labels is not None:
            num_items = labels.ne(-100).sum()
            total = num_items if num_items_in_batch is None else torch.as_tensor(num_items_in_batch).to(labels.device)
            output.text_loss = text_loss(output.logits, labels, total)
            output.loss = self.config.text_weight * output.text_loss
            if watched_now:
                # Of a batch without any token (total 0) a share cannot be told
                share = torch.where(total > 0, num_items / total.clamp_min(1), 1.0)
                masks = video_chunk_mask, audio_chunk_mask
                self._add_next_chunk_losses(
                    output, pixel_values_videos, input_features, *masks, share, num_pairs_in_batch
                )
        return output

    def _add_next_chunk_losses(
        self, output, pixel_values_videos, input_features, video_mask, audio_mask, share, num_pairs_in_batch
    ):
        """Add the next-chunk losses, over the whole batch's pairs if known, else weighted by this part's share."""
        config, temporal, encoder = self.config, self.config.temporal_config, output.encoder_outputs
        latents = rearrange(
            encoder.last_hidden_state, "batch (chunk latent) dim -> batch chunk latent dim", latent=config.num_latents
        )
        masks = encoder.chunk_mask, video_mask, audio_mask if config.use_audio else torch.zeros_like(video_mask)
        num_pairs = torch.stack([next_chunk_pairs(mask).sum() for mask in masks])
        total, factor = num_pairs, share
        if num_pairs_in_batch is not None:
            total, factor = num_pairs_in_batch.to(share.device), 1.0
            share = num_pairs[0] / total[0].clamp_min(1)
        heads = self.model.encoder.next_chunk
        variance_loss, covariance_loss = spread_losses(encoder.combined_features, encoder.chunk_mask)
        output.latent_loss = (
            factor * cosine_loss(encoder.predicted_features, encoder.combined_features, encoder.chunk_mask, total[0])
            + share * temporal.variance_weight * variance_loss
            + share * temporal.covariance_weight * covariance_loss
        )
        target = small_video(pixel_values_videos, heads.video_size)
        output.video_loss = factor * reconstruction_loss(heads.predict_video(latents), target, video_mask, total[1])
        output.loss = output.loss + config.latent_weight * output.latent_loss + config.video_weight * output.video_loss
        if config.use_audio:
            target = small_audio(input_features, heads.audio_size)
            output.audio_loss = factor * reconstruction_loss(
                heads.predict_audio(latents), target, audio_mask, total[2]
            )
            output.loss = output.loss + config.audio_weight * output.audio_loss
