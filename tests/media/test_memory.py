"""Memory follows what is kept: whole frames are dropped one by one, and what is long lies in a file."""

import weakref

import numpy as np
import pytest
from clips import write_clip

from mirasol.media import MediaError, blocks, read_clip, spool
from mirasol.media.frames import FrameDecoder
from mirasol.media.sound import SoundTrack


@pytest.mark.parametrize("decoder", ["pyav", "torchcodec"])
def test_prepared_frames_equal_whole_frames_prepared_afterwards(tmp_path, decoder):
    if decoder == "torchcodec":
        pytest.importorskip("torchcodec")
    path = write_clip(tmp_path / "a.mp4", seconds=2)
    times, corner = np.arange(0, 2, 0.13), (slice(3, 20), slice(5, 30))
    whole = read_clip(path, select=lambda info: times, decoder=decoder)
    small = read_clip(path, select=lambda info: times, prepare=lambda image: image[corner], decoder=decoder)
    assert np.array_equal(small.frames, whole.frames[:, *corner])
    assert np.array_equal(small.frame_times, whole.frame_times)


@pytest.mark.parametrize("select", [None, lambda info: np.arange(0, 4, 0.02)])
def test_no_more_than_two_whole_frames_live_at_once(tmp_path, monkeypatch, select):
    alive: list[weakref.ref] = []
    most = 0
    to_image = FrameDecoder.to_image

    def counted(self, frame):
        nonlocal most
        image = to_image(self, frame)
        alive[:] = [reference for reference in alive if reference() is not None] + [weakref.ref(image)]
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(FrameDecoder, "to_image", counted)
    path = write_clip(tmp_path / "a.mp4", seconds=4, sound=False)
    clip = read_clip(path, select=select, prepare=lambda image: image[:8])
    assert len(clip.frames) == 100
    assert most <= 2


@pytest.mark.parametrize("limit", [0, 200, 10_000, 1 << 30])
def test_what_is_long_lies_in_a_file_and_is_the_same(monkeypatch, limit):
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", limit)
    rows = np.random.default_rng(0).integers(0, 256, (101, 7, 3), np.uint8)
    kept = spool.Spool()
    for begin, end in ((0, 1), (1, 1), (1, 40), (40, 99), (99, 101)):
        kept.append(rows[begin:end])
    array = kept.array()
    assert np.array_equal(array, rows)
    assert (spool._mapping(array) is None) == (rows.nbytes <= limit)
    array[3] = 5  # a user may write into a clip
    assert np.array_equal(np.concatenate(list(blocks(array))), array) and (array[3] == 5).all()


def test_appended_rows_are_copied():
    kept, row = spool.Spool(), np.zeros(5)
    kept.append(row)
    row[:] = 1
    assert not kept.array().any()


def test_a_file_is_looked_at_in_blocks_and_memory_in_one(monkeypatch):
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 400)
    kept = spool.Spool()
    kept.append(np.arange(1000, dtype=np.float32))
    assert max(len(block) for block in blocks(kept.array())) <= 100
    assert len(list(blocks(np.zeros(1000)))) == 1


def test_a_long_clip_is_read_as_a_short_one(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", seconds=2)
    short = read_clip(path)
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 1000)
    long = read_clip(path)
    assert np.array_equal(short.frames, long.frames) and np.array_equal(short.waveform, long.waveform)
    assert np.array_equal(read_clip(path, start=0.5, end=1.2).waveform, short.waveform[8_000:19_200])


def test_no_room_for_a_long_clip_is_said(monkeypatch):
    monkeypatch.setattr(spool, "IN_MEMORY_BYTES", 10)
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", lambda: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    with pytest.raises(MediaError, match="room for 0 MiB of a long clip .*No space left.* set TMPDIR"):
        spool.Spool().append(np.ones(11, np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 32_000.0, 101.0])
def test_samples_that_are_no_sound_are_refused_with_their_second(value):
    sound = SoundTrack()
    sound.add(0.5, 8_000, np.full(4_000, 3.0, np.float32))  # louder than full scale is still sound
    samples = np.zeros(4_000, np.float32)
    samples[2_000] = value
    with pytest.raises(MediaError, match=r"between -1 and 1, found .* at 1.250 s"):
        sound.add(1.0, 8_000, samples)
