"""Clips, sound and questions -> the model's inputs, on one grid of seconds."""

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from mirasol.chunks.agreement import check_agreement, special_tokens
from mirasol.chunks.chat import media_of, plain_texts
from mirasol.chunks.collation_mirasol import CHUNK_INPUTS, pad_chunks
from mirasol.chunks.inputs import input_features, pixel_values
from mirasol.chunks.options import FLAT, GROUPS, sort_options
from mirasol.chunks.placement import ClipReport, Placement, place_clip, report
from mirasol.chunks.sources import as_clips, clips_of_pictures
from mirasol.chunks.text import TokenRows, as_strings, chat_template_of, pad_text, tokenize_prompts
from mirasol.chunks.time_grid import ChunkPlan, TimeGrid
from mirasol.features.image_processing_mirasol import check_crop
from mirasol.media import WHOLE, Clip, Crop, MediaInfo, read_clip
from mirasol.media.types import Source


class ClipBatch(BatchFeature):
    """The model's inputs by name. `to` keeps the dtype of `chunk_times`, because bfloat16 rounds 10.2 s to 10.25 s."""

    def to(self, *args, **kwargs) -> "ClipBatch":
        """Return the batch on another device, or in another dtype."""
        seconds = self.get("chunk_times")
        super().to(*args, **kwargs)
        if seconds is not None:
            self["chunk_times"] = seconds.to(self["chunk_times"].device)
        return self


class MirasolProcessor(ProcessorMixin):
    """Turns clips and questions into the inputs of `MirasolForConditionalGeneration`.

    Args:
        image_processor: A `MirasolVideoProcessor`.
        feature_extractor: A `MirasolFeatureExtractor`.
        tokenizer: The text decoder's; its `model_max_length` is the context.
        chat_template: Renders a conversation; by default to the prompt that `prompt_template` gives.
        frames_per_second: Frames a second; this and the next three make the `TimeGrid`.
        num_frames_per_chunk: Frames a chunk.
        num_mel_frames_per_chunk: Log-mel frames (10 ms) a chunk.
        max_chunks: Budget for long clips.
        sampling: Policy for clips longer than `max_chunks`: `uniform`, `snippets` or `dense`.
        prompt_template: Text of the prompt; `{question}` stands for the question.
        decoder: Of files: "pyav", or "torchcodec" (an extra; docs/decoders.md lists the files it gets wrong).
    """

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        chat_template=None,
        frames_per_second: float = 12.5,
        num_frames_per_chunk: int = 8,
        num_mel_frames_per_chunk: int = 64,
        max_chunks: int = 16,
        sampling: str = "uniform",
        prompt_template: str = "{question}\n",
        decoder: str = "pyav",
    ):
        self.frames_per_second = frames_per_second
        self.num_frames_per_chunk = num_frames_per_chunk
        self.num_mel_frames_per_chunk = num_mel_frames_per_chunk
        self.max_chunks = max_chunks
        self.sampling = sampling
        self.prompt_template = prompt_template
        self.decoder = decoder
        self.grid.plan(0.0, sampling)  # raises for a wrong grid or policy now, not at the first clip
        chat_template = chat_template or chat_template_of(prompt_template)
        super().__init__(image_processor, feature_extractor, tokenizer, chat_template=chat_template)
        self.tokenizer.padding_side = "left"  # of prompts; pipelines that pad themselves look here

    @property
    def grid(self) -> TimeGrid:
        """The time grid that the model is checked against."""
        return TimeGrid(
            self.frames_per_second, self.num_frames_per_chunk, self.num_mel_frames_per_chunk, self.max_chunks
        )

    @property
    def pad_token_id(self) -> int:
        """Fills the text of shorter questions; the end token where the tokenizer has no padding token."""
        return special_tokens(self.tokenizer)["pad_token_id"]

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns; with `answers` also `labels`."""
        return [*CHUNK_INPUTS, "decoder_input_ids", "decoder_attention_mask"]

    def check_model_config(self, config: Any) -> None:
        """Raises ValueError with both numbers if the model takes other inputs than this processor makes."""
        check_agreement(self, config)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        *,
        answers: str | Sequence[str] | None = None,
        frame_times: Any = None,
        frame_rate: float | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Return the model's inputs: chunks `[batch chunk ...]` with masks and times, and text `[question token]`.

        Args:
            images: A picture or a list of them, each a clip of one frame; stands first as in all of transformers.
            text: One question for all clips, or k questions a clip, grouped by clip. None gives the media only.
            videos: A clip or a list of them: a `Clip`, a path, the bytes of a file, or uint8 frames
                [frame, height, width, 3] with `frame_times` or `frame_rate`; None where a clip has sound only.
            audio: A waveform (mono, from t = 0, with its `sampling_rate`), a path or the bytes of a file, or a list of
                them, one for each clip; each replaces the sound of its video.
            answers: One answer a question; adds the answer to `decoder_input_ids`, and `labels`.
            frame_times: Seconds of each frame, for frames given as an array; a list of them for a list.
            frame_rate: Frames a second instead of `frame_times`.
            **kwargs: Flat, or in `text_kwargs`, `images_kwargs`, `videos_kwargs`, `audio_kwargs`, `common_kwargs`:
                `sampling` and `max_chunks` instead of the processor's own; `use_video`, `use_audio`: False masks it
                (a clip that has sound then warns); `num_chunks` to pad every clip to, masked, for programs that join
                the results of several calls; `sampling_rate` of waveforms, 16,000; `padding` ("longest" or
                "max_length" with `max_length`) and `padding_side` of the text, by default left for prompts and right
                with answers; `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`, `image_std`.
        """
        options = sort_options(kwargs, self.tokenizer.init_kwargs)
        num_chunks = options["chunks"].pop("num_chunks", None)
        chosen, pixels = options["chunks"], options["videos_kwargs"] | options["images_kwargs"]
        if text is None and images is None and videos is None and audio is None:
            raise ValueError("Expected a question, videos or audio, but found none of them: pass at least one.")
        if images is not None:
            if videos is not None:
                raise ValueError("Expected images or videos, but found both: pass them in two calls.")
            videos = clips_of_pictures(images, self.frames_per_second)
        seer = copy.copy(self)
        seer.image_processor = self.image_processor.replace(**pixels) if pixels else self.image_processor
        use = {f"use_{name}": chosen.get(f"use_{name}", True) for name in ("video", "audio")}

        def read(source: str | Path | bytes, **tracks: bool) -> Clip:
            return self.read_clip(source, **chosen | tracks)

        times = {"frame_times": frame_times, "frame_rate": frame_rate, **options["audio_kwargs"]}
        clips = as_clips(videos, audio, read, **use, **times)
        data = {}
        if clips:
            items, reports = zip(*(seer.chunk_and_describe(clip, **chosen) for clip in clips), strict=True)
            for clip, found in zip(clips, reports, strict=True):
                for message in found.warnings:
                    if message not in clip.warnings:  # the reader has given its own
                        warnings.warn(message, stacklevel=2)
            data = pad_chunks(items, num_chunks)
        if text is not None:
            questions = as_strings(text, "text", len(clips))
            if clips and len(questions) % len(clips):
                raise ValueError(
                    f"Every clip needs equally many questions, but there are {len(questions)} questions for "
                    f"{len(clips)} clips: pass one question for all, or k for each, those of the first clip first."
                )
            if answers is not None:
                answers = as_strings(answers, "answers", len(clips))
            rows = self.tokenize_questions(questions, answers)
            data |= pad_text(rows, self.pad_token_id, **options["text_kwargs"])
        return ClipBatch(data)

    def read_clip(
        self,
        source: Source,
        *,
        sampling: str | None = None,
        max_chunks: int | None = None,
        use_video: bool = True,
        use_audio: bool = True,
        start: float = 0.0,
        end: float | None = None,
        crop: Crop | None = None,
        do_resize: bool = True,
        audio_stream: int | str | None = None,
        warn: bool = True,
    ) -> Clip:
        """Read a file, or its seconds from `start` to `end`, in one pass: sound, and the frames that the grid needs.

        Args:
            source: A path, or the bytes of a file.
            sampling: Policy for long clips instead of the processor's own.
            max_chunks: Budget instead of the processor's own.
            use_video: False leaves the picture out.
            use_audio: False leaves the sound out.
            start: Seconds of the file where the clip begins.
            end: Seconds of the file where the clip ends.
            crop: Square to look at instead of the image processor's own: side, and x and y of its centre.
            do_resize: Cut and resize each frame as soon as it is decoded, so that memory follows what the model sees.
                False keeps whole frames.
            audio_stream: Number, counted from 0, or language of the sound track, where there are several.
            warn: False reports faults in `Clip.warnings` only.
        """
        square = crop or self.image_processor.crop
        check_crop(square[0], square[1:])

        def select(info: MediaInfo) -> np.ndarray:
            return self._plan(info.duration_seconds, sampling, max_chunks).wanted_times

        look = partial(self.image_processor.square_of, crop=square)
        clip = read_clip(
            source, use_video=use_video, use_audio=use_audio, select=select, prepare=look if do_resize else None,
            start=start, end=end, audio_stream=audio_stream, decoder=self.decoder, warn=warn,
        )  # fmt: skip
        return replace(clip, crop=WHOLE if do_resize else crop)

    def chunk_clip(
        self,
        clip: Clip,
        *,
        sampling: str | None = None,
        max_chunks: int | None = None,
        grid_offset_seconds: float = 0.0,
        use_video: bool = True,
        use_audio: bool = True,
        do_resize: bool = True,
        spec_augment: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """One clip's chunk inputs without batch axis: `pixel_values_videos` [chunk frame channel height width] and
        `input_features` [chunk mel_frame mel], zeros where not real, their masks [chunk] and `chunk_times` [chunk 2].

        Args:
            clip: Frames and sound with their times.
            sampling: Policy for long clips instead of the processor's own.
            max_chunks: Budget instead of the processor's own.
            grid_offset_seconds: The grid starts this long before t = 0: a random chunk phase.
            use_video: False masks the picture.
            use_audio: False masks the sound.
            do_resize: False when the frames already are `image_size` squares.
            spec_augment: Changes the log-mel [chunk mel_frame mel] of the whole clip.
        """
        placement = self._place(clip, sampling, max_chunks, use_video, use_audio, grid_offset_seconds)
        return self._inputs(clip, placement, do_resize, spec_augment)

    def chunk_and_describe(
        self,
        clip: Clip,
        *,
        sampling: str | None = None,
        max_chunks: int | None = None,
        use_video: bool = True,
        use_audio: bool = True,
    ) -> tuple[dict[str, Tensor], ClipReport]:
        """Return the results of `chunk_clip`, and a report of the seconds, frames and sound used, with warnings."""
        placement = self._place(clip, sampling, max_chunks, use_video, use_audio)
        return self._inputs(clip, placement), report(clip, placement, self.num_mel_frames_per_chunk)

    def tokenize_questions(self, questions: Sequence[str], answers: Sequence[str] | None = None) -> TokenRows:
        """Token rows of questions, and of their answers if given: see `mirasol.chunks.text.tokenize_prompts`."""
        prompts = [self.prompt_template.replace("{question}", question) for question in questions]
        return tokenize_prompts(self.tokenizer, prompts, answers)

    def decode_answer(self, ids: Tensor | Sequence, prompt_length: int = 0) -> str | list[str]:
        """The text of generated ids without special tokens: a string for one row, a list for several.

        Args:
            ids: Generated ids, or labels, whose ignored places are left out.
            prompt_length: Tokens at the start of each row that are the prompt (`decoder_input_ids.shape[1]`).
        """
        rows = torch.as_tensor(ids)
        if rows.ndim == 2:
            return [str(self.decode_answer(row, prompt_length)) for row in rows]
        kept = rows[prompt_length:]
        return self.tokenizer.decode(kept[kept >= 0].tolist(), skip_special_tokens=True).strip()

    def batch_decode(self, sequences: Any, **kwargs) -> list[str]:
        """Decode as the tokenizer does, but leave out ignored places (-100), which predictions of a Trainer hold."""
        return self.tokenizer.batch_decode([[int(i) for i in row if i >= 0] for row in sequences], **kwargs)

    def apply_chat_template(  # type: ignore[override]  # every keyword by name
        self,
        conversation: list,
        chat_template: str | None = None,
        tools: list | None = None,
        documents: list | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        processor_kwargs: dict | None = None,
        **kwargs,
    ) -> str | list[str] | BatchFeature:
        """Return the prompt of a conversation's last user message or, with `tokenize`, the inputs with its media.

        Args:
            conversation: Messages whose content is text, or parts as `mirasol.chunks.chat` lists them; or a list of
                conversations.
            chat_template: Instead of the processor's own.
            tools, documents: For templates that name them.
            add_generation_prompt: Has no effect, because the prompt always ends where the answer begins.
            continue_final_message: Has no effect: an answer always starts empty.
            return_assistant_tokens_mask: Refused, because a prompt holds no answers.
            tokenize: Read the media and tokenise, as a call does.
            return_dict: False gives `decoder_input_ids` only.
            processor_kwargs: Passed on to the call, like all further keywords that the call knows.
            **kwargs: Keywords of a call, and variables of the template.
        """
        if return_assistant_tokens_mask:
            raise ValueError("return_assistant_tokens_mask must be off: a prompt holds one question and no answers.")
        is_batch = isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "content")
        batch = [getattr(chat, "messages", chat) for chat in (conversation if is_batch else [conversation])]
        words = set(re.findall(r"\w+", str(chat_template or self.chat_template))) - {*FLAT, *GROUPS}
        shown = {name: kwargs.pop(name) for name in words & kwargs.keys()}
        prompts = super().apply_chat_template(
            [plain_texts(messages) for messages in batch],
            chat_template=chat_template,
            tools=tools,
            documents=documents,
            tokenize=False,
            **shown,
        )
        if not tokenize:
            return prompts if is_batch else prompts[0]
        options = (processor_kwargs or {}) | kwargs
        media = [media_of(messages) for messages in batch] if return_dict else []
        inputs: BatchFeature = ClipBatch()
        if any(part is not None for parts in media for part in parts.values()):
            videos = clips_of_pictures([parts["image"] for parts in media], self.frames_per_second)
            for number, parts in enumerate(media):
                videos[number] = videos[number] if parts["video"] is None else parts["video"]
            inputs = self(videos=videos, audio=[parts["audio"] for parts in media], **options)
        text_options = sort_options(options, self.tokenizer.init_kwargs)["text_kwargs"]
        inputs.update(pad_text(tokenize_prompts(self.tokenizer, prompts), self.pad_token_id, **text_options))
        return inputs if return_dict else inputs["decoder_input_ids"]

    # ---- parts of chunk_clip

    def _plan(self, duration: float, sampling: str | None, max_chunks: int | None, offset: float = 0.0) -> ChunkPlan:
        return self.grid.plan(duration, sampling or self.sampling, max_chunks, offset)

    def _place(
        self,
        clip: Clip,
        sampling: str | None,
        max_chunks: int | None,
        use_video: bool,
        use_audio: bool,
        offset: float = 0.0,
    ) -> Placement:
        return place_clip(clip, self._plan(clip.duration, sampling, max_chunks, offset), use_video, use_audio)

    def _inputs(
        self,
        clip: Clip,
        placement: Placement,
        do_resize: bool = True,
        spec_augment: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        num_mel_frames = self.num_mel_frames_per_chunk
        return {
            "pixel_values_videos": pixel_values(clip, placement, self.image_processor, do_resize),
            "input_features": input_features(clip, placement, self.feature_extractor, num_mel_frames, spec_augment),
            "video_chunk_mask": placement.video_chunk_mask,
            "audio_chunk_mask": placement.audio_chunk_mask,
            "chunk_times": torch.from_numpy(placement.plan.times).float(),
        }
