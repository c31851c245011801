"""Rows -> chunk inputs, decoded in worker processes ahead of the model, once per clip."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor
from torch.utils.data import Dataset

from mirasol.evaluate.conditions import Condition, borrow_sound
from mirasol.media import Clip, join_clips
from mirasol.media.notes import SILENT
from mirasol.tasks import Row, segment_of

Read = Callable[[Row, Condition], Clip]
PARTS_KEPT = 128  # decoded parts of joined clips, because several clips share parts


@dataclass
class Shown:
    """One clip under one condition: its chunk inputs and the media used."""

    media: dict[str, Tensor]
    seconds_covered: float
    sound_used: bool
    is_silent: bool  # whether the sound is silence
    lender: Row | None = None  # the row that lent its sound


@dataclass
class LoadedClip:
    """A clip under each condition that it allows; `error` is the reason if the first condition failed."""

    shown: dict[str, Shown] = field(default_factory=dict)
    error: str | None = None
    warnings: list[str] = field(default_factory=list)


class ShownClips(Dataset):
    """Item i is row i under every condition, or the reason why its clip is unreadable.

    Args:
        rows: Rows of the task.
        processor: Decodes clips and cuts them into chunks.
        conditions: The first is measured; the others are applied to the same decoded clip, if it has sound.
        lenders: For each row, the rows that may lend it their sound; only condition `swapped` needs them.
        read: `read(row, condition)` returns a decoded clip instead of decoding the file.
    """

    def __init__(
        self, rows: Sequence[Row], processor, conditions: Sequence[Condition],
        lenders: Sequence[Sequence[Row]] | None = None, read: Read | None = None,
    ):  # fmt: skip
        self.rows, self.processor, self.conditions, self.read = rows, processor, conditions, read
        self.reader = partial(processor.read_clip, warn=False)  # warnings are kept in the clip's report
        self.lenders = lenders or [()] * len(rows)
        self._parts: dict[str, Clip] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> LoadedClip:
        row, loaded = self.rows[index], LoadedClip()
        first, *others = self.conditions
        try:
            lender, sound = self._borrow(index, first)
            if self.read is not None:
                clip = shown = self.read(row, first)
            elif row.parts:
                clip = self._joined(row)
                shown = first.apply(clip, row.id, sound)
            elif others:  # one decode of both tracks for all conditions
                clip = Condition().read(row, reader=partial(self.reader, crop=row.crop))
                shown = first.apply(clip, row.id, sound)
            else:
                clip = shown = first.read(row, sound, partial(self.reader, crop=row.crop))
            loaded.shown[first.key], told = self._show(shown, lender)
            # Condition `silent` makes the silence itself.
            loaded.warnings = [text for text in told if SILENT not in text or first.name != "silent"]
            for condition in others if clip.waveform is not None else ():
                with contextlib.suppress(ValueError, OSError):  # the clip does not allow the condition
                    lender, sound = self._borrow(index, condition)
                    loaded.shown[condition.key], _ = self._show(condition.apply(clip, row.id, sound), lender)
        except Exception as error:  # one bad file must not end the run
            known = isinstance(error, ValueError | OSError)
            loaded.error = str(error) if known else f"{type(error).__name__}: {error}"
        return loaded

    def _joined(self, row: Row) -> Clip:
        for part in row.parts:
            if part.id not in self._parts:
                if len(self._parts) >= PARTS_KEPT:
                    self._parts.pop(next(iter(self._parts)))
                crop = part.crop or row.crop
                self._parts[part.id] = self.reader(part.media, sampling="dense", crop=crop, **segment_of(part))
        return join_clips([self._parts[part.id] for part in row.parts], row.part_seconds)

    def _borrow(self, index: int, condition: Condition) -> tuple[Row | None, Clip | None]:
        if condition.name != "swapped":
            return None, None
        return borrow_sound(self.lenders[index], self.reader)

    def _show(self, clip: Clip, lender: Row | None) -> tuple[Shown, list[str]]:
        media, report = self.processor.chunk_and_describe(clip)
        shown = Shown(media, round(report.seconds_covered, 3), report.used_sound, report.is_silent, lender)
        return shown, report.warnings
