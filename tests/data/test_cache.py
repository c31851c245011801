"""The cache holds what decoding gives, once, whole or not at all; a bad clip is reported and the rest is kept."""

import json
import warnings
from dataclasses import replace

import av
import numpy as np
import pytest
from clips import write_clip
from einops import rearrange

from mirasol.data import ClipCache, read
from mirasol.features import MirasolVideoProcessor
from mirasol.media import read_clip, spool
from mirasol.tasks import Row

IMAGE = MirasolVideoProcessor(image_size=19, crop_fraction=0.8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[Row]:
    """Five clips: ordinary, silent, sound only, late sound, and one that is no media file."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "both.mp4", seconds=0.7)
    write_clip(folder / "mute.mp4", seconds=0.5, sound=False)
    write_clip(folder / "heard.wav", seconds=0.5, picture=False)
    write_clip(folder / "late.mkv", seconds=0.7, sound_start=0.2)
    (folder / "text.mp4").write_text("this is not a clip")
    return [Row(path.stem, path) for path in sorted(folder.iterdir())]


def build(rows, root, **options) -> ClipCache:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ClipCache.build(rows, root, IMAGE, progress=False, **options)


def test_cached_clips_equal_decoded_ones(rows, tmp_path):
    cached = build(rows, tmp_path)
    for row in rows:
        if row.id == "text":
            continue
        clip, decoded = cached[row.id], read_clip(row.media)
        assert (clip.frames is None) == (decoded.frames is None) == (row.id == "heard")
        assert (clip.waveform is None) == (decoded.waveform is None) == (row.id == "mute")
        assert (clip.duration, clip.audio_start) == (decoded.duration, decoded.audio_start)
        if clip.frames is not None:
            shown = IMAGE.crop_and_resize(decoded.frames)
            assert np.array_equal(
                clip.frames, rearrange(shown, "frame color height width -> frame height width color")
            )
            assert np.array_equal(clip.frame_times, decoded.frame_times)
        if clip.waveform is not None:
            assert np.array_equal(clip.waveform, decoded.waveform)


def test_a_bad_clip_is_counted_and_named_and_the_rest_is_kept(rows, tmp_path):
    missing = Row("gone", rows[0].media.with_name("gone.mp4"))
    with pytest.warns(UserWarning, match="2 of 6 clips cannot be read and are left out"):
        cached = ClipCache.build([*rows, missing], tmp_path, IMAGE, progress=False)
    assert set(cached.bad) == {"text", "gone"} and "text" not in cached and len(cached.clips) == 4
    assert json.loads((cached.folder / "bad_clips.json").read_text()) == cached.bad
    with pytest.raises(ValueError, match="at least one readable clip out of 1, found none"):
        build([missing], tmp_path)


def test_a_clip_with_samples_that_are_no_sound_is_bad_and_says_where(tmp_path):
    samples = np.zeros((1, 16_000), np.float32)
    samples[0, 4_000] = np.nan
    path = tmp_path / "nan.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    good = Row("good", write_clip(tmp_path / "good.wav", seconds=0.5, picture=False))
    cached = build([Row("nan", path), good], tmp_path / "cache")
    assert list(cached.clips) == ["good"]
    assert "found nan at 0.250 s" in cached.bad["nan"]


def test_a_long_clip_is_cached_like_a_short_one(rows, tmp_path, monkeypatch):
    short = build(rows, tmp_path / "short")
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 1000)
    long = build(rows, tmp_path / "long")
    for name in ("00000/frames.bin", "00000/sound.bin", "index.json"):
        assert (short.folder / name).read_bytes() == (long.folder / name).read_bytes()


def test_border_is_wider_than_what_is_shown_as_far_as_the_picture_reaches(rows, tmp_path):
    sides = [build(rows, tmp_path, margin=margin)[rows[0].id].frames.shape[1:3] for margin in (1.15, 2.0)]
    assert sides == [(round(19 * 1.15),) * 2, (round(19 / 0.8),) * 2]


def test_a_row_with_a_square_of_its_own_is_cut_there(rows, tmp_path):
    seen = [row for row in rows if row.id in ("both", "late", "mute")]
    own = [(1.0, 0.5, 0.5), None, (0.4, 0.3, 0.7)]
    cached = build([replace(row, crop=crop) for row, crop in zip(seen, own, strict=True)], tmp_path, margin=1.2)
    kept = [(19, (1.0, 0.5, 0.5)), (23, (0.8 * 23 / 19, 0.5, 0.5)), (23, (0.4 * 23 / 19, 0.3, 0.7))]  # with a border
    for row, (side, crop) in zip(seen, kept, strict=True):
        expected = IMAGE.crop_and_resize(read_clip(row.media).frames, side, crop)
        assert np.array_equal(cached[row.id].frames, rearrange(expected, "frame channel h w -> frame h w channel"))


def test_second_build_decodes_nothing_and_a_changed_input_or_setting_builds_anew(rows, tmp_path, monkeypatch):
    decoded: list = []

    def counting_read(*arguments, **options):
        decoded.append(arguments)
        return read_clip(*arguments, **options)

    monkeypatch.setattr(read, "read_clip", counting_read)
    first = build(rows[:2], tmp_path)
    assert len(decoded) == 2
    assert build(rows[:2], tmp_path).folder == first.folder and len(decoded) == 2
    assert build(rows[:2], tmp_path, margin=1.1).folder != first.folder and len(decoded) == 4
    other = Row(rows[0].id, rows[1].media)
    assert build([other, rows[1]], tmp_path).folder != first.folder and len(decoded) == 6
    aside = MirasolVideoProcessor(image_size=19, crop_fraction=0.8, crop_center=(0.4, 0.6))
    assert ClipCache.build(rows[:2], tmp_path, aside, progress=False).folder != first.folder and len(decoded) == 8


def test_a_kill_while_writing_leaves_nothing_that_looks_whole(rows, tmp_path, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(read, "read_clip", killed)
    with pytest.raises(KeyboardInterrupt):
        build(rows, tmp_path)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    monkeypatch.undo()
    assert len(build(rows, tmp_path).clips) == 4


def test_only_frames_that_the_grid_shows_are_kept(rows, tmp_path):
    clip = build(rows, tmp_path, frames_per_second=5.0)["both"]
    np.testing.assert_allclose(clip.frame_times, [0.0, 0.2, 0.4, 0.6], atol=0.001)


def test_frames_whose_times_the_container_rounds_are_kept(tmp_path):
    """Matroska stores 1/15 s as 67 ms, which is after the moment that a grid of 15 frames a second shows."""
    row = Row("a", write_clip(tmp_path / "a.mkv", fps=15, seconds=1.0, sound=False))
    clip = build([row], tmp_path / "cache", frames_per_second=15.0)["a"]
    assert clip.frame_times.tolist() == read_clip(row.media).frame_times.tolist()


def test_segments_of_one_file_are_clips_of_their_own(tmp_path):
    write_clip(tmp_path / "long.mp4", seconds=1.3)
    spans = [(0.0, 0.5), (0.5, 1.0)]
    rows = [Row(f"part{start}", tmp_path / "long.mp4", segment=(start, end)) for start, end in spans]
    cached = build(rows, tmp_path / "cache")
    for row, (start, end) in zip(rows, spans, strict=True):
        decoded = read_clip(row.media, start=start, end=end)
        assert np.array_equal(cached[row.id].waveform, decoded.waveform)
        assert np.array_equal(cached[row.id].frame_times, decoded.frame_times)
    assert not np.array_equal(cached[rows[0].id].waveform, cached[rows[1].id].waveform)
