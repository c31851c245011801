"""Wrong answers for the report: frames as the model saw them, and a playable preview."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Float, UInt8

from mirasol.evaluate.results import Evaluation, Prediction
from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor
from mirasol.media import Clip, MediaInfo, read_clip
from mirasol.media.preview import encode_preview
from mirasol.tasks import Row

NUM_FAILS = 12
NUM_PICTURES = 3  # per clip
MAX_COLUMNS = 2048  # of a spectrogram
PREVIEW_SECONDS, PREVIEW_RATE, PREVIEW_SIDE = 10.0, 8, 240  # seconds, frames per second, pixels of the longer side


@dataclass(frozen=True)
class Fail:
    """A wrong answer with data URIs: frames as the model saw them, else the spectrogram, and a preview file.

    `seconds` is the length of the preview. All fields are empty if the clip cannot be read.
    """

    prediction: Prediction
    pictures: list[str] = field(default_factory=list)
    spectrogram: str = ""
    video: str = ""
    audio: str = ""
    seconds: float = 0.0


def choose_fails(predictions: Sequence[Prediction], count: int = NUM_FAILS) -> list[Prediction]:
    """Choose the most confident wrong answers, in turn from each kind of question, at most one per clip."""
    by_kind: dict[str, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda p: -p.confidence):
        if not prediction.right:
            by_kind.setdefault(prediction.kind, []).append(prediction)
    chosen: dict[str, Prediction] = {}
    while len(chosen) < count and any(by_kind.values()):
        for found in by_kind.values():
            while found and found[0].clip in chosen:
                found.pop(0)
            if found:
                first = found.pop(0)
                chosen[first.clip] = first
    return list(chosen.values())[:count]


def look_at(fails: Sequence[Prediction], evaluation: Evaluation) -> Iterator[Fail]:
    """Yield each wrong answer with its clip under the measured condition."""
    places = {row.id: row for row in evaluation.rows}
    eyes = evaluation.looks_at or MirasolVideoProcessor()
    for fail in fails:
        try:
            yield look(fail, places[fail.clip], eyes, evaluation.metrics.condition)
        except (ValueError, OSError):
            yield Fail(fail)


def look(fail: Prediction, row: Row, eyes: MirasolVideoProcessor, condition: str) -> Fail:
    """Return the wrong answer with the first seconds of its clip, without a track that the condition leaves out."""
    from mirasol.report.drawing import image_uri, spectrogram_uri

    start, end = row.segment or (0.0, np.inf)
    read = partial(
        read_clip, row.media, use_video=condition != "sound", warn=False, start=start,
        end=min(end, start + PREVIEW_SECONDS),
    )  # fmt: skip
    hears = condition not in ("picture", "silent")
    clip = read(use_audio=hears or condition == "silent", select=partial(evenly, rate=PREVIEW_RATE), prepare=small)
    pictures, spectrogram, frames = [], "", None
    if clip.frames is not None:
        assert clip.frame_times is not None, "frames come with their times"
        look_there = partial(eyes.square_of, crop=row.crop or eyes.crop)
        saw = read(use_audio=False, select=partial(evenly, rate=NUM_PICTURES / clip.duration), prepare=look_there)
        assert saw.frames is not None, "the clip has a picture"
        pictures = [image_uri(square) for square in saw.frames]
        times = evenly(clip.duration, PREVIEW_RATE)
        frames = clip.frames[(np.searchsorted(clip.frame_times, times + 1e-6, side="right") - 1).clip(min=0)]
    elif clip.waveform is not None:
        spectrogram = spectrogram_uri(log_mel(clip))
    sound = clip.waveform if hears else None
    if sound is not None:
        silence = np.zeros(max(0, round(clip.audio_start * clip.sampling_rate)), np.float32)
        sound = np.concatenate([silence, sound])[: round(PREVIEW_SECONDS * clip.sampling_rate)]
    kind = "audio" if frames is None else "video"
    file = base64.b64encode(encode_preview(frames, PREVIEW_RATE, sound, clip.sampling_rate)).decode()
    return Fail(
        fail, pictures, spectrogram, seconds=round(min(clip.duration, PREVIEW_SECONDS), 1),
        **{kind: f"data:{kind}/mp4;base64,{file}"},
    )  # fmt: skip


def evenly(clip: MediaInfo | float, rate: float) -> Float[np.ndarray, " time"]:
    """Return the centres of the clip's pieces of 1 / `rate` seconds, at least one."""
    duration = clip.duration_seconds if isinstance(clip, MediaInfo) else clip
    return (np.arange(max(1, round(min(duration, PREVIEW_SECONDS) * rate))) + 0.5) / rate


def small(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "shown_height shown_width 3"]:
    """Return the picture at preview size, with even sides for the encoder."""
    from PIL import Image

    scale = min(1.0, PREVIEW_SIDE / max(image.shape))
    height, width = (max(2, round(side * scale / 2) * 2) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def log_mel(clip: Clip) -> Float[np.ndarray, "shown mel"]:
    """Return the log-mel of a clip's sound, averaged to at most `MAX_COLUMNS` columns."""
    assert clip.waveform is not None, "the clip has sound"
    mel = MirasolFeatureExtractor()(clip.waveform, sampling_rate=clip.sampling_rate)["input_features"][0]
    return np.stack([part.mean(axis=0) for part in np.array_split(np.asarray(mel), min(len(mel), MAX_COLUMNS))])
