"""Clips, sound and questions -> the model's inputs, on one grid of seconds."""

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
from transformers.utils.chat_template_utils import _get_template_variables

from mirasol.chunks.agreement import check_agreement
from mirasol.chunks.collation_mirasol import CHUNK_INPUTS, pad_chunks
from mirasol.chunks.placement import ClipReport, Placement, place_clip, report
from mirasol.chunks.sound import log_mel_chunks
from mirasol.chunks.sources import as_clips
from mirasol.chunks.text import TokenRows, as_strings, chat_template_of, last_part, pad_text, tokenize_prompts
from mirasol.chunks.time_grid import ChunkPlan, TimeGrid
from mirasol.features.feature_extraction_mirasol import check_waveform
from mirasol.features.image_processing_mirasol import check_crop, check_frames
from mirasol.media import WHOLE, Clip, Crop, MediaInfo, blocks, read_clip


class ClipBatch(BatchFeature):
    """The model's inputs by name. `to` keeps the dtype of `chunk_times`, because bfloat16 rounds 10.2 s to 10.25 s."""

    def to(self, *args, **kwargs) -> "ClipBatch":
        """The same batch on another device, or in another dtype."""
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
        frames_per_second: Frame slots a second; this and the next three make the `TimeGrid`.
        num_frames_per_chunk: Frame slots a chunk.
        num_mel_frames_per_chunk: Log-mel columns (10 ms) a chunk.
        max_chunks: Budget for long clips.
        sampling: What happens to a clip longer than the budget: `uniform`, `snippets` or `dense`.
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
        self.grid.plan(0.0, sampling)  # refuses a wrong grid or policy now rather than at the first clip
        chat_template = chat_template or chat_template_of(prompt_template)
        super().__init__(image_processor, feature_extractor, tokenizer, chat_template=chat_template)

    @property
    def grid(self) -> TimeGrid:
        """The time grid that the model is checked against."""
        return TimeGrid(
            self.frames_per_second, self.num_frames_per_chunk, self.num_mel_frames_per_chunk, self.max_chunks
        )

    @property
    def pad_token_id(self) -> int:
        """Fills the text of shorter questions; the end token where the tokenizer has no padding token."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @property
    def model_input_names(self) -> list[str]:
        """Names of everything that a call may return."""
        return [*CHUNK_INPUTS, "decoder_input_ids", "decoder_attention_mask", "labels"]

    def check_model_config(self, config: Any) -> None:
        """Raises ValueError with both numbers if the model takes other inputs than this processor makes."""
        check_agreement(self, config)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        images: None = None,
        *,
        answers: str | Sequence[str] | None = None,
        frame_times: Any = None,
        frame_rate: float | None = None,
        sampling_rate: int | None = None,
        sampling: str | None = None,
        max_chunks: int | None = None,
        use_video: bool = True,
        use_audio: bool = True,
        padding: bool = True,
        padding_side: str | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """The model's inputs: chunks `[batch chunk ...]` with masks and times, and text `[question token]`.

        Args:
            text: One question for all clips, or k questions a clip, grouped by clip. None gives the media only.
            videos: A clip or a list of them: a `Clip`, a path, the bytes of a file, or uint8 frames
                [frame, height, width, 3] with `frame_times` or `frame_rate`; None where a clip has sound only.
            audio: A waveform (mono, 16 kHz, from t = 0) or a path, or a list of them, one for each clip; each replaces
                the sound of its video.
            images: Not for Mirasol; stands here because transformers' pipelines name it.
            answers: One answer a question; adds the answer to `decoder_input_ids`, and `labels`.
            frame_times: Seconds of each frame, for frames given as an array; a list of them for a list.
            frame_rate: Frames a second instead of `frame_times`.
            sampling_rate: Of the waveforms; checked against 16 kHz when given.
            sampling: Policy for clips longer than the budget instead of the processor's own.
            max_chunks: Budget instead of the processor's own.
            use_video: False masks the picture.
            use_audio: False masks the sound; a clip that has some then warns.
            padding: True, because rows of unequal length make no tensor.
            padding_side: Side of the text's padding; by default left for prompts, right with answers.
            return_tensors: "pt", the only kind there is.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', but it is {return_tensors!r}: Mirasol is a PyTorch model.")
        if not padding:
            raise ValueError("padding must be on, but it is off: pass one question a call to get it without padding.")
        if images is not None:
            raise ValueError(
                "Expected videos, but found images: pass a picture as a video of one frame, "
                "videos=picture[None] with frame_rate=1."
            )
        if text is None and videos is None and audio is None:
            raise ValueError("Expected a question, videos or audio, but found none of them: pass at least one.")
        chosen: dict[str, Any] = {
            "sampling": sampling,
            "max_chunks": max_chunks,
            "use_video": use_video,
            "use_audio": use_audio,
        }

        def read(source: str | Path | bytes, **tracks: bool) -> Clip:
            return self.read_clip(source, **chosen | tracks)

        clips = as_clips(videos, audio, read, use_video, use_audio, frame_times, frame_rate, sampling_rate)
        data = {}
        if clips:
            items, reports = zip(*(self.chunk_and_describe(clip, **chosen) for clip in clips), strict=True)
            for clip, found in zip(clips, reports, strict=True):
                for message in found.warnings:
                    if message not in clip.warnings:  # the reader has given its own
                        warnings.warn(message, stacklevel=2)
            data = pad_chunks(items)
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
            data |= pad_text(rows, self.pad_token_id, padding_side)
        return ClipBatch(data)

    def read_clip(
        self,
        source: str | Path | bytes,
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
        """The sound of a file, or of its seconds from `start` to `end`, and the frames its grid needs, in one pass.

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
            warn: False leaves what is reported to `Clip.warnings` alone.
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

    def describe(
        self,
        clip: Clip,
        *,
        sampling: str | None = None,
        max_chunks: int | None = None,
        use_video: bool = True,
        use_audio: bool = True,
    ) -> ClipReport:
        """What a call with these options uses of the clip: seconds, frames, sound found and used, warnings."""
        placement = self._place(clip, sampling, max_chunks, use_video, use_audio)
        return report(clip, placement, self.num_mel_frames_per_chunk)

    def chunk_and_describe(
        self,
        clip: Clip,
        *,
        sampling: str | None = None,
        max_chunks: int | None = None,
        use_video: bool = True,
        use_audio: bool = True,
    ) -> tuple[dict[str, Tensor], ClipReport]:
        """What `chunk_clip` and `describe` give, placing the clip's frames and sound once."""
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

    def apply_chat_template(
        self,
        conversation: list,
        chat_template: str | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        return_dict: bool = True,
        processor_kwargs: dict | None = None,
        **kwargs,
    ) -> str | list[str] | BatchFeature:
        """The prompt of a conversation's last user message or, with `tokenize`, the model's inputs with its media.

        Args:
            conversation: Messages whose content is text, or parts of type "text", "video" and "audio"; or a list of
                conversations.
            chat_template: Instead of the processor's own.
            tokenize: Read the media and tokenise, as a call does.
            add_generation_prompt: Has no effect, because the prompt always ends where the answer begins.
            continue_final_message: Has no effect: an answer is always begun anew.
            return_dict: False gives `decoder_input_ids` only.
            processor_kwargs: Passed on to the call, like all further keywords that the template does not name.
        """
        variables = _get_template_variables(chat_template or self.chat_template) & kwargs.keys()
        shown = {name: kwargs.pop(name) for name in variables}
        prompts = super().apply_chat_template(conversation, chat_template=chat_template, tokenize=False, **shown)
        if not tokenize:
            return prompts
        batch = [conversation] if isinstance(prompts, str) else conversation
        videos, audio = ([last_part(messages, kind) for messages in batch] for kind in ("video", "audio"))
        inputs: BatchFeature = ClipBatch()
        if return_dict and any(part is not None for part in videos + audio):
            inputs = self(videos=videos, audio=audio, **(processor_kwargs or {}), **kwargs)
        rows = tokenize_prompts(self.tokenizer, [prompts] if isinstance(prompts, str) else prompts)
        inputs.update(pad_text(rows, self.pad_token_id))
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
        seconds = clip.used_seconds(use_video, use_audio)
        return place_clip(clip, self._plan(seconds, sampling, max_chunks, offset), use_video, use_audio)

    def _inputs(
        self,
        clip: Clip,
        placement: Placement,
        do_resize: bool = True,
        spec_augment: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        return {
            "pixel_values_videos": self._pixel_values(clip, placement, do_resize),
            "input_features": self._input_features(clip, placement, spec_augment),
            "video_chunk_mask": placement.video_chunk_mask,
            "audio_chunk_mask": placement.audio_chunk_mask,
            "chunk_times": torch.from_numpy(placement.plan.times).float(),
        }

    def _pixel_values(self, clip: Clip, placement: Placement, do_resize: bool) -> Tensor:
        size, mask = self.image_processor.image_size, placement.video_chunk_mask
        if not mask.any():
            return torch.zeros(len(mask), self.num_frames_per_chunk, 3, size, size)
        used, slots = np.unique(placement.frame_index[mask.numpy()], return_inverse=True)
        frames = check_frames(clip.frames)
        if not do_resize and frames.shape[1:3] != (size, size):
            raise ValueError(
                f"With do_resize=False frames must be {size} x {size} pixels, but these are "
                f"{frames.shape[1]} x {frames.shape[2]}: resize them, or leave do_resize on."
            )
        pixels = self.image_processor.crop_and_resize(
            frames, crop=clip.crop if do_resize else WHOLE, selected=None if len(used) == len(frames) else used
        ).contiguous()  # whole frames are copied faster when each is one piece of memory
        values = torch.zeros(len(mask), self.num_frames_per_chunk, 3, size, size)
        shown = torch.from_numpy(slots.reshape(-1, self.num_frames_per_chunk))
        for chunk, frames_of_chunk in zip(mask.nonzero().flatten().tolist(), shown, strict=True):
            values[chunk] = self.image_processor.to_pixel_values(pixels[frames_of_chunk])
        return values

    def _input_features(
        self, clip: Clip, placement: Placement, spec_augment: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        extractor, mask = self.feature_extractor, placement.audio_chunk_mask
        if not mask.any():
            return torch.zeros(len(mask), self.num_mel_frames_per_chunk, extractor.num_mel_bins)
        if clip.sampling_rate != extractor.sampling_rate:
            raise ValueError(
                f"Sound must come at {extractor.sampling_rate} Hz, but this clip's sampling_rate is "
                f"{clip.sampling_rate} Hz: resample it to {extractor.sampling_rate} Hz first."
            )
        for block in blocks(clip.waveform):
            check_waveform(block)
        features = log_mel_chunks(
            placement.plan, clip.waveform, clip.audio_start, self.num_mel_frames_per_chunk, extractor
        )
        if spec_augment is not None:
            features = spec_augment(features)
        return features.masked_fill(~mask[:, None, None], 0.0)
