"""Conditions of evaluation: both modalities, one alone, another clip's sound, silence, or sound under noise."""

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from mirasol.data.augment import noisy
from mirasol.media import Clip, read_clip
from mirasol.tasks import Row, segment_of

CONDITIONS = {
    "both": "picture + sound",
    "sound": "sound only",
    "picture": "picture only",
    "swapped": "sound of another clip",
    "silent": "silence for sound",
}
AUDIT = ("both", "picture", "swapped", "silent")  # sound on, off, of another clip, all zeros
NUM_LENDERS = 4  # candidates, because the best one may have no sound
ALL_COMPARED, NUM_COMPARED = 512, 64  # up to 512 clips are compared with all others, more with 64 random ones


@dataclass(frozen=True)
class Condition:
    """A condition under which all clips of a run are evaluated."""

    name: str = "both"
    noise_db: float | None = None
    noise_seed: int = 0

    def __post_init__(self):
        if self.name not in CONDITIONS:
            raise ValueError(f"Expected a condition out of {', '.join(CONDITIONS)}, found {self.name!r}: use one.")
        if self.name in ("picture", "silent") and self.noise_db is not None:
            raise ValueError(
                f"Expected a condition with sound for noise at {self.noise_db:g} dB, found {CONDITIONS[self.name]}, "
                "which hears nothing. Drop the noise, or choose both or sound."
            )

    @property
    def use_video(self) -> bool:
        return self.name != "sound"

    @property
    def use_audio(self) -> bool:
        return self.name != "picture"

    @property
    def key(self) -> str:
        """Name of the condition and its noise in file names and keys."""
        return self.name if self.noise_db is None else f"{self.name}_{self.noise_db:g}dB_seed{self.noise_seed}"

    @property
    def label(self) -> str:
        """Readable name."""
        return self.described([self.noise_seed])

    def described(self, seeds: Sequence[int]) -> str:
        """Return the readable name for one or several noise seeds."""
        several = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        noise = "" if self.noise_db is None else f", white noise at {self.noise_db:g} dB ({several})"
        return CONDITIONS[self.name] + noise

    def apply(self, clip: Clip, row_id: str, sound_of: Clip | None = None) -> Clip:
        """Return the decoded clip under this condition; for `swapped`, `sound_of` is the clip that lends its sound.

        The result equals swapping the tracks before decoding, because tracks are decoded independently.
        """
        if self.name == "swapped":
            if sound_of is None:
                raise ValueError(f"Expected a clip that lends its sound to {row_id}, found none: pass sound_of.")
            sound = {name: getattr(sound_of, name) for name in ("waveform", "audio_start", "audio_gaps")}
            clip = dataclasses.replace(clip, **sound)
        elif self.name == "sound":
            clip = dataclasses.replace(clip, frames=None, frame_times=None)
        elif self.name == "picture":
            # As if the file had no sound: it is left out on purpose, so nothing warns that it is unused.
            info = clip.info and dataclasses.replace(clip.info, has_audio=False)
            clip = dataclasses.replace(clip, waveform=None, info=info)
        elif self.name == "silent" and clip.waveform is not None:
            clip = dataclasses.replace(clip, waveform=np.zeros_like(clip.waveform))
        if clip.frames is None and clip.waveform is None:
            raise ValueError(f"{row_id} has nothing to show as {self.label}: use another condition, or leave it out.")
        if self.noise_db is not None and clip.waveform is not None:
            clip = dataclasses.replace(clip, waveform=add_noise(clip.waveform, self.noise_db, self.noise_seed, row_id))
        return clip

    def read(self, row: Row, sound_of: Clip | None = None, reader: Callable[..., Clip] = read_clip) -> Clip:
        """Decode the row's clip under this condition, without its unused tracks."""
        use_audio = self.use_audio and self.name != "swapped"
        clip = reader(row.media, use_video=self.use_video, use_audio=use_audio, **segment_of(row))
        return self.apply(clip, row.id, sound_of)


def all_conditions(
    names: Sequence[str], noise_db: Sequence[float] = (), noise_seeds: Sequence[int] = (0,)
) -> tuple[Condition, ...]:
    """Return every condition at every noise level and seed; without noise levels, the clean conditions."""
    if not (names and noise_seeds):
        raise ValueError(
            f"Expected at least one condition and one noise seed, found {names!r} and {noise_seeds!r}: add one."
        )
    clean = tuple(Condition(name) for name in names)
    noisy = (Condition(name, db, seed) for db in noise_db for name in names for seed in noise_seeds)
    return tuple(dict.fromkeys(noisy if noise_db else clean))


def borrow_sound(lenders: Sequence[Row], reader: Callable[..., Clip] = read_clip) -> tuple[Row, Clip]:
    """Return the first row whose clip has sound, and its clip."""
    for lender in lenders:
        with contextlib.suppress(ValueError, OSError):
            clip = reader(lender.media, use_video=False, **segment_of(lender))
            if clip.waveform is not None:
                return lender, clip
    names = ", ".join(lender.id for lender in lenders) or "none"
    raise ValueError(
        f"Expected sound to swap in, found none in the clips that could lend it ({names}): choose a larger split."
    )


def add_noise(
    waveform: Float32[np.ndarray, " sample"], noise_db: float, noise_seed: int, row_id: str
) -> Float32[np.ndarray, " sample"]:
    """Return the waveform with white Gaussian noise at a signal-to-noise ratio of `noise_db` over the whole clip.

    The noise depends only on the seed and the clip's id, so that runs can be compared clip by clip: batch, order and
    the other conditions do not change it.
    """
    return noisy(waveform, noise_db, np.random.default_rng([noise_seed, zlib.crc32(row_id.encode())]))


def swap_partners(rows: Sequence[Row], kinds: Collection[str] | None = None, seed: int = 0) -> list[list[int]]:
    """Return, for each row, the rows that may lend it their sound, those with the most different answers first.

    An answer differs if the other row has another answer to the same question or, without that question, has no equal
    answer. Only questions of `kinds` count, if given. `seed` breaks ties at random. A row never gets the sound of its
    own file.
    """
    files = [str(row.media) for row in rows]
    if len(set(files)) < 2:
        raise ValueError(
            f"Expected clips of at least 2 files, found {len(set(files))}, to swap sound: use a larger split."
        )
    answers = [{q.text: q.answer for q in row.questions if kinds is None or q.kind in kinds} for row in rows]
    given = [set(mine.values()) for mine in answers]
    rng = np.random.default_rng(seed)
    partners = []
    for i, mine in enumerate(answers):
        others = np.arange(len(rows)) if len(rows) <= ALL_COMPARED else rng.integers(len(rows), size=NUM_COMPARED)
        different = np.array(
            [-1 if files[j] == files[i] else _differences(mine, answers[j], given[j]) for j in others.tolist()]
        )
        best = int(rng.choice(np.flatnonzero(different == different.max())))
        order = [best, *np.argsort(-different, kind="stable").tolist()]
        partners.append(
            list(dict.fromkeys(int(others[k]) for k in order if files[others[k]] != files[i]))[:NUM_LENDERS]
        )
    return partners


def _differences(mine: dict[str, str], theirs: dict[str, str], their_answers: set[str]) -> int:
    return sum(
        answer != theirs[text] if text in theirs else answer not in their_answers for text, answer in mine.items()
    )
