"""What a clip is shown as: picture and sound, one of them, the sound of another clip, or sound under white noise."""

import dataclasses
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from mirasol.data.augment import noisy
from mirasol.media import Clip, read_clip
from mirasol.tasks import Row

CONDITIONS = {
    "both": "picture + sound",
    "sound": "sound only",
    "picture": "picture only",
    "swapped": "sound of another clip",
}


@dataclass(frozen=True)
class Condition:
    """One way of showing clips, the same for every clip of a run."""

    name: str = "both"
    noise_db: float | None = None
    noise_seed: int = 0

    def __post_init__(self):
        if self.name not in CONDITIONS:
            raise ValueError(f"Expected a condition out of {', '.join(CONDITIONS)}, found {self.name!r}: choose one.")
        if self.name == "picture" and self.noise_db is not None:
            raise ValueError(
                f"Noise at {self.noise_db:g} dB was asked for, but picture only hears nothing. "
                "Drop the noise, or choose both or sound."
            )

    @property
    def use_video(self) -> bool:
        return self.name != "sound"

    @property
    def use_audio(self) -> bool:
        return self.name != "picture"

    @property
    def label(self) -> str:
        noise = "" if self.noise_db is None else f", white noise at {self.noise_db:g} dB (seed {self.noise_seed})"
        return CONDITIONS[self.name] + noise

    def apply(self, clip: Clip, row_id: str, sound_of: Clip | None = None) -> Clip:
        """The clip as this condition shows it; `sound_of` is the clip whose sound is put under a swapped one.

        Works on decoded clips, so that cached ones can be used; equal to swapping the sound tracks before decoding,
        because both tracks are decoded independently of each other.
        """
        if self.name == "swapped":
            if sound_of is None:
                raise ValueError(f"Condition swapped needs the clip whose sound {row_id} gets: pass sound_of.")
            clip = dataclasses.replace(clip, waveform=sound_of.waveform, audio_start=sound_of.audio_start)
        elif self.name == "sound":
            clip = dataclasses.replace(clip, frames=None, frame_times=None)
        elif self.name == "picture":
            clip = dataclasses.replace(clip, waveform=None)
        if clip.frames is None and clip.waveform is None:
            raise ValueError(f"{row_id} has nothing to show as {self.label}: use another condition, or leave it out.")
        if self.noise_db is not None and clip.waveform is not None:
            clip = dataclasses.replace(clip, waveform=add_noise(clip.waveform, self.noise_db, self.noise_seed, row_id))
        return clip

    def read(self, row: Row, sound_row: Row | None = None, reader: Callable[..., Clip] = read_clip) -> Clip:
        """The row's clip, decoded by `reader` and shown as this condition says; unused tracks are not decoded."""
        if self.name == "swapped":
            sound_of = reader(sound_row.media, use_video=False) if sound_row is not None else None
            return self.apply(reader(row.media, use_audio=False), row.id, sound_of)
        return self.apply(reader(row.media, use_video=self.use_video, use_audio=self.use_audio), row.id)


def add_noise(
    waveform: Float32[np.ndarray, " sample"], noise_db: float, noise_seed: int, row_id: str
) -> Float32[np.ndarray, " sample"]:
    """The waveform with white Gaussian noise at `noise_db` dB signal-to-noise ratio over the whole clip.

    The noise depends on the seed and the clip's id only, so the same clip gets the same noise whatever the batch,
    the order or the other conditions: runs can be compared clip by clip.
    """
    return noisy(waveform, noise_db, np.random.default_rng([noise_seed, zlib.crc32(row_id.encode())]))


def swap_partners(rows: Sequence[Row], kinds: Collection[str] | None = None, seed: int = 0) -> list[int]:
    """For each row the index of the row whose sound it gets: the one that differs in the most asked answers.

    Only questions with the same text are compared, and only of these kinds if given. Among equally different rows the
    choice is random with `seed`; a row never gets its own sound.
    """
    if len(rows) < 2:
        raise ValueError(f"Swapping sound needs at least 2 clips, found {len(rows)}: choose a larger split.")
    answers = [{q.text: q.answer for q in row.questions if kinds is None or q.kind in kinds} for row in rows]
    rng = np.random.default_rng(seed)
    partners = []
    for i, mine in enumerate(answers):
        different = [sum(mine[text] != theirs.get(text, mine[text]) for text in mine) for theirs in answers]
        different[i] = -1
        partners.append(int(rng.choice(np.flatnonzero(np.array(different) == max(different)))))
    return partners
