"""Wrong answers on the page: which are chosen, what the model saw of them, and a small file that plays."""

import base64
import io
from dataclasses import replace

import av
import numpy as np
import pytest
from clips import beep_times, write_clip
from PIL import Image

from mirasol.evaluate.results import Clips, Evaluation, Metrics, Prediction
from mirasol.features import MirasolVideoProcessor
from mirasol.media import read_clip
from mirasol.report.fails import choose_fails, look_at, small
from mirasol.tasks import Row, get_task

EYES = MirasolVideoProcessor(32, 0.5, (0.5, 0.5))


def fail(clip: str, number: int = 0, kind: str = "color", right: bool = False) -> Prediction:
    return Prediction(clip, f"{clip}/{number}", kind, "?", "red", "blue", right, 0.5)


def looked_at(*rows: Row, condition: str = "both"):
    metrics = Metrics(
        checkpoint="", task="jsonl", split="", condition=condition, clips=Clips(asked=1, answered=1), scores={},
        scores_missing_wrong={}, intervals_95={},
    )  # fmt: skip
    evaluation = Evaluation(metrics=metrics, predictions=[], rows=list(rows), looks_at=EYES)
    return list(look_at([fail(row.id) for row in rows], evaluation))


def bytes_of(uri: str) -> bytes:
    return base64.b64decode(uri.partition("base64,")[2])


def test_wrong_answers_come_from_every_kind_the_surest_first_and_each_clip_once():
    found = [fail(str(c), k, kind=f"kind{k}") for c in range(9) for k in range(3)]
    found = [replace(p, confidence=i / len(found)) for i, p in enumerate(found)]
    chosen = choose_fails([*found, fail("x", right=True)], count=5)
    assert len({p.clip for p in chosen}) == len(chosen) == 5
    assert {p.kind for p in chosen[:3]} == {"kind0", "kind1", "kind2"}
    assert chosen[0].confidence == max(p.confidence for p in found)


def test_pictures_are_the_squares_that_the_model_saw(tmp_path):
    write_clip(tmp_path / "a.mp4", size=(64, 48))
    whole, square = Row("a", tmp_path / "a.mp4"), Row("b", tmp_path / "a.mp4", crop=(0.4, 0.75, 0.2))
    shown = [np.asarray(Image.open(io.BytesIO(bytes_of(f.pictures[0])))) for f in looked_at(whole, square)]
    assert [picture.shape for picture in shown] == [(32, 32, 3)] * 2
    red = shown[1].reshape(-1, 3).mean(axis=0)  # the upper right quarter of the clip is red, and all that row b sees
    assert red[0] > 150 > 80 > red[2] and shown[0].reshape(-1, 3).mean(axis=0)[0] < 190


@pytest.mark.parametrize(
    ("condition", "tracks"),
    [("both", {"video", "audio"}), ("sound", {"audio"}), ("picture", {"video"}), ("silent", {"video"})],
)
def test_the_file_plays_what_the_condition_showed(tmp_path, condition, tracks):
    write_clip(tmp_path / "a.mp4", seconds=2, at=(0.5, 1.5))
    (found,) = looked_at(Row("a", tmp_path / "a.mp4"), condition=condition)
    data = bytes_of(found.video or found.audio)
    with av.open(io.BytesIO(data)) as container:
        assert {stream.type for stream in container.streams} == tracks
    assert bool(found.video) == (condition != "sound") and bool(found.spectrogram) == (condition == "sound")
    clip = read_clip(data)
    assert clip.duration == pytest.approx(2, abs=0.15)
    if clip.waveform is not None:
        assert np.allclose(beep_times(clip.waveform), [0.5, 1.5], atol=0.08)


def test_the_file_is_small_whatever_the_clip(tmp_path):
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "noise.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.options = 320, 240, {"preset": "ultrafast"}
        for _ in range(150):
            picture = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    (found,) = looked_at(Row("noise", tmp_path / "noise.mp4"))
    assert len(bytes_of(found.video)) < 300_000 and found.seconds == 10
    assert read_clip(bytes_of(found.video)).duration == pytest.approx(10, abs=0.2)


def test_a_segment_is_played_from_its_start(tmp_path):
    write_clip(tmp_path / "a.mp4", seconds=3, at=(2.25,))
    (found,) = looked_at(Row("a", tmp_path / "a.mp4", segment=(2.0, 3.0)))
    clip = read_clip(bytes_of(found.video))
    assert clip.duration == pytest.approx(1, abs=0.15)
    assert beep_times(clip.waveform)[0] == pytest.approx(0.25, abs=0.08)


def test_a_clip_without_a_picture_is_shown_by_its_sound_alone_and_no_longer_than_it_lasts(repository):
    row = get_task("drone").load(repository / "data" / "drone_cc0", "test_sound")[0]
    found, unread = looked_at(row, replace(row, id="gone", media=row.media.with_name("gone.ogg")))
    picture = Image.open(io.BytesIO(bytes_of(found.spectrogram)))
    last_columns = np.asarray(picture)[:, -picture.width // 20 :].astype(float)
    assert not found.pictures and not found.video and found.audio.startswith("data:audio/mp4")
    assert last_columns.std() > 10  # sound to the end, not the rest of the last chunk
    assert not (unread.pictures or unread.spectrogram or unread.audio)


def test_pictures_of_a_preview_keep_their_shape_and_have_even_sides():
    assert small(np.zeros((1080, 1920, 3), np.uint8)).shape == (136, 240, 3)
    assert small(np.zeros((75, 33, 3), np.uint8)).shape == (76, 32, 3)
