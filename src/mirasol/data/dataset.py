"""Rows of a task -> items of a batch: the chunks of one clip and its tokenised questions."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset

from mirasol.chunks import MirasolProcessor
from mirasol.data.augment import (
    AugmentConfig,
    augment_audio,
    augment_video,
    draw_phase,
    draw_tracks,
    generator,
    mask_spectrogram,
    move_in_time,
    silenced,
)
from mirasol.data.balance import answer_weights, balanced_round
from mirasol.data.cache import ClipCache
from mirasol.data.read import ClipReader, cause_of
from mirasol.media import Clip, MediaInfo, join_clips
from mirasol.tasks import Question, Row, Task

MAX_QUESTIONS_PER_CLIP = 32  # if one clip has hundreds, every other clip would repeat its own as often


class ClipDataset(Dataset):
    """One item per clip; an item depends on seed, epoch and clip id alone, not on worker or order.

    Clips are read from a cache, or decoded on access: then only the frames of the time grid, and no picture if
    augmentation leaves it out. Both give the same items.

    An index below 0 gives a blank: a masked chunk and no question, without any loss. A clip that cannot be decoded
    gives a blank with `skipped`: (id, cause, message).

    Clips are reshuffled on every pass (round); an epoch is the next `clips_per_epoch` of that stream. Augmentation
    then depends on the round instead of the epoch, because a clip may occur twice in an epoch.

    Items hold the results of `MirasolProcessor.chunk_clip` and `tokenize_questions`, as `MirasolCollator` expects
    them; all have equally many questions.

    Args:
        rows: The task's rows. With a cache, those whose clip cannot be read are left out, counted and reported.
        task: The task, which samples the questions of training.
        processor: Gives grid, picture size and tokenizer.
        cache_root: Folder of the cache of decoded clips; None decodes them on access.
        augment: Augmentation of a clip in each epoch. None: none, and the row's own questions.
        seed: Seed of the augmentation and of the order of the clips.
        questions_per_clip: Questions of each item, sampled each epoch in training; a clip with fewer repeats some.
            By default all of them, but at most 32 where clips have unequal numbers of questions.
        clips_per_epoch: Items of an epoch, fewer or more than there are clips. By default every clip once.
        balance: Sample every answer to a question about equally often; clips of rare ones repeat in a round.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        task: Task,
        processor: MirasolProcessor,
        cache_root: str | Path | None,
        *,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        questions_per_clip: int | None = None,
        clips_per_epoch: int | None = None,
        balance: bool = False,
        progress: bool = True,
    ):
        margin, rate = augment.margin if augment else 1.0, processor.grid.frames_per_second
        self.reader = ClipReader(processor.image_processor, margin, rate, processor.decoder)
        self.cache = None
        if cache_root is not None:
            self.cache = ClipCache.build(
                rows, cache_root, processor.image_processor, margin, rate, processor.decoder, progress
            )
        self.rows = [row for row in rows if self.cache is None or self.cache.holds(row)]
        self.task, self.processor, self.augment, self.seed = task, processor, augment, seed
        if questions_per_clip is None and len({len(row.questions) for row in self.rows}) > 1:
            questions_per_clip = min(max(len(row.questions) for row in self.rows), MAX_QUESTIONS_PER_CLIP)
        self.questions_per_clip, self.clips_per_epoch = questions_per_clip, clips_per_epoch
        self._weights = answer_weights(self.rows) if balance else None
        self._order: tuple[int, np.ndarray] | None = None  # of the round last asked for
        self._tokens: dict[tuple[str, str], dict[str, list[int]]] = {}
        # In shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.rows) if self.clips_per_epoch is None else self.clips_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch whose augmentation is applied."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Use this epoch's augmentation from the next item on."""
        self._epoch.fill_(epoch)

    @property
    def shard_sizes(self) -> list[int]:
        """Number of clips of each shard, in order; single files count as one shard."""
        if self.clips_per_epoch is not None:
            return [self.clips_per_epoch]
        if self._weights is not None:
            return [len(self.rows)]
        shards = [getattr(row.media, "archive", "") for row in self.rows]
        return [len(list(same)) for _, same in itertools.groupby(shards)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < 0:
            return self.blank()
        row, number = self._row_and_round(index)
        augment = None if self.augment is None else self.augment.at_epoch(self.epoch)
        # A clip that occurs several times in a round is augmented anew each time.
        name = row.id if self._weights is None else f"{row.id}/{index}"
        rng, same = (generator(self.seed, number, name) for _ in range(2))
        try:
            # The draw of `draw_tracks` tells which tracks need decoding.
            clip = self.cache.clip_of(row) if self.cache is not None else self._decode(row, augment, same.random())
        except (ValueError, OSError) as error:  # all that reading raises
            return {**self.blank(), "skipped": (row.id, cause_of(row, error), str(error))}
        if augment is None:
            return self._item(clip, row.questions)
        return self._training_item(row, clip, augment, rng)

    def blank(self) -> dict[str, Any]:
        """Return an item without any loss: one masked chunk, and no question."""
        grid, size = self.processor.grid, self.processor.image_processor.image_size
        num_mel_bins = self.processor.feature_extractor.num_mel_bins
        return {
            "pixel_values_videos": torch.zeros(1, grid.num_frames_per_chunk, 3, size, size),
            "input_features": torch.zeros(1, grid.num_mel_frames_per_chunk, num_mel_bins),
            "video_chunk_mask": torch.zeros(1, dtype=torch.bool),
            "audio_chunk_mask": torch.zeros(1, dtype=torch.bool),
            "chunk_times": torch.zeros(1, 2),
            "decoder_input_ids": [],
            "labels": [],
        }

    def row_id(self, index: int) -> str:
        """Return the id of the clip that is item `index` of this epoch."""
        return self._row_and_round(index)[0].id

    def _decode(self, row: Row, augment: AugmentConfig | None, draw: float) -> Clip:
        """Read the frames and sound that an item of a row needs, by its draw of the tracks."""
        sound_only = augment is not None and draw < augment.sound_only_probability

        def select(info: MediaInfo) -> np.ndarray:
            if sound_only and info.has_audio:
                return np.empty(0)
            if self._fits(info.duration_seconds):
                return self.reader.grid_times(info)
            return self.processor.grid.plan(info.duration_seconds, self.processor.sampling).wanted_times

        if row.parts:
            return join_clips([self.reader.read(part) for part in row.parts], row.part_seconds)
        clip = self.reader.read(row, select)
        if clip.frames is None and clip.waveform is None:  # a sound track that holds no sound
            sound_only = False
            clip = self.reader.read(row, select)
        return clip

    def _fits(self, duration: float) -> bool:
        return duration <= self.processor.grid.max_chunks * self.processor.grid.seconds_per_chunk

    def _row_and_round(self, index: int) -> tuple[Row, int]:
        if self.clips_per_epoch is None and self._weights is None:
            return self.rows[index], self.epoch
        number, place = divmod(self.epoch * (self.clips_per_epoch or len(self.rows)) + index, len(self.rows))
        if self._order is None or self._order[0] != number:
            rng = np.random.default_rng([self.seed, number])
            balanced = None if self._weights is None else balanced_round(self._weights, rng)
            self._order = number, rng.permutation(len(self.rows)) if balanced is None else balanced
        return self.rows[self._order[1][place]], number

    def _training_item(self, row: Row, clip: Clip, augment: AugmentConfig, rng: np.random.Generator) -> dict[str, Any]:
        grid = self.processor.grid
        use_video, use_audio = draw_tracks(augment, rng, clip)
        fits, phase = self._fits(clip.duration), 0.0
        word_times: Sequence[tuple[float, float]] = row.word_times
        if fits:  # a longer clip was decoded only at the frames at which it is sampled
            clip, word_times = move_in_time(clip, row.word_times, augment, rng, grid.frames_per_second)
            phase = draw_phase(augment, rng, grid.seconds_per_chunk)
        # Separate generators, so that dropping one track does not change the draws of the other and of the questions.
        picture_rng, sound_rng, text_rng = rng.spawn(3)
        questions = self.task.sample_questions(row, text_rng, word_times, clip.duration)
        if use_video and clip.frames is not None:
            size = self.processor.image_processor.image_size
            clip = replace(clip, frames=augment_video(clip.frames, size, augment, picture_rng))
        if use_audio and clip.waveform is not None:
            waveform = augment_audio(clip.waveform, augment, sound_rng)
            if use_video and augment.silence_probability and sound_rng.random() < augment.silence_probability:
                waveform = silenced(waveform, sound_rng)
            clip = replace(clip, waveform=waveform)
        return self._item(
            clip,
            [questions[i] for i in text_rng.permutation(len(questions))],
            # A clip that was slowed down may exceed the budget of the original.
            max_chunks=2 * grid.max_chunks if fits else None,
            grid_offset_seconds=phase,
            use_video=use_video,
            use_audio=use_audio,
            spec_augment=partial(mask_spectrogram, config=augment, rng=sound_rng),
        )

    def _item(self, clip: Clip, questions: Sequence[Question], **options: Any) -> dict[str, Any]:
        count = self.questions_per_clip or len(questions)
        questions = [questions[number % len(questions)] for number in range(count)]
        # Frames are already squares of the model's size.
        media = self.processor.chunk_clip(clip, do_resize=False, **options)
        tokens = [self._tokenize(question.text, question.answer) for question in questions]
        return {**media, **{name: [row[name] for row in tokens] for name in tokens[0]}}

    def _tokenize(self, text: str, answer: str) -> dict[str, list[int]]:
        # The same few texts recur; caching their tokens saves 1.5 ms per item.
        key = (text, answer)
        if key not in self._tokens:
            rows = self.processor.tokenize_questions([text], [answer])
            self._tokens[key] = {name: ids for name, (ids,) in rows.items()}
        return self._tokens[key]


class ClipMixture(ConcatDataset):
    """Concatenation of the clips of several tasks."""

    def __init__(self, parts: Sequence[ClipDataset]):
        super().__init__(parts)
        self.parts = list(parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.parts[-1 - index][-1] if index < 0 else super().__getitem__(index)

    def row_id(self, index: int) -> str:
        """Return the id of the clip that is item `index` of this epoch."""
        part = bisect.bisect_right(self.cumulative_sizes, index)
        return self.parts[part].row_id(index - (self.cumulative_sizes[part - 1] if part else 0))

    def set_epoch(self, epoch: int) -> None:
        """Use this epoch's augmentation from the next item on."""
        for part in self.parts:
            part.set_epoch(epoch)
