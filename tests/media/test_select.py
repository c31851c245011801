"""Choosing frames by time: the same frames whether GOPs are skipped or not, and the skipped ones are not decoded."""

import numpy as np
import pytest
from clips import picture_number, write_clip

from mirasol.media import read_clip
from mirasol.media.container import PacketTable
from mirasol.media.frames import FrameDecoder


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".mpg", ".ts"])
@pytest.mark.parametrize("times", [[0.0, 1.9], [0.5], [0.41, 0.43, 0.45, 1.3], np.arange(0, 2, 0.03).tolist()])
def test_selected_frames_are_the_last_ones_shown_by_then(tmp_path, suffix, times):
    path = write_clip(tmp_path / f"a{suffix}", sound=False)
    every = read_clip(path)
    clip = read_clip(path, select=lambda info: np.array(times))
    wanted = np.unique([np.flatnonzero(every.frame_times <= time + 1e-6)[-1] for time in times])
    assert np.array_equal(clip.frame_times, every.frame_times[wanted])
    assert np.array_equal(clip.frames, every.frames[wanted])


def test_a_time_before_the_first_frame_takes_the_first(tmp_path):
    path = write_clip(tmp_path / "a.mkv", frame_times=[0.5, 0.6, 0.7], seconds=1)
    clip = read_clip(path, select=lambda info: np.array([0.0, 0.1, 0.62, 5.0]))
    assert [picture_number(frame) for frame in clip.frames] == [0, 1, 2]


def test_select_knows_the_clip_before_it_chooses(tmp_path):
    path = write_clip(tmp_path / "a.mp4", seconds=1.2, sound=False)
    clip = read_clip(path, select=lambda info: (np.arange(3) + 0.5) * info.duration_seconds / 3)
    assert clip.frame_times == pytest.approx([0.2, 0.6, 1.0])


def test_few_frames_decode_few_packets(tmp_path, monkeypatch):
    fed = []
    feed = FrameDecoder.feed
    monkeypatch.setattr(FrameDecoder, "feed", lambda self, packet: fed.append(packet) or feed(self, packet))
    path = write_clip(tmp_path / "a.mp4", seconds=4, gop=10, sound=False)
    clip = read_clip(path, select=lambda info: np.array([2.04]))
    assert picture_number(clip.frames[0]) == 51
    assert len([packet for packet in fed if packet is not None]) < 25  # one GOP, and the file's first frame; not 100


def test_a_frame_shown_before_its_keyframe_is_decoded_from_the_one_before():
    # decoding order  I0 P3 B1 B2 | I6 B4 B5 P9 : B4 and B5 refer to P3, in the GOP before theirs
    times = np.array([0, 3, 1, 2, 6, 4, 5, 9], float)
    keyframes = np.array([1, 0, 0, 0, 1, 0, 0, 0], bool)
    table = PacketTable(times, times + 1, keyframes, np.ones(8, bool))
    assert table.to_decode(np.array([6.0])).tolist() == [False] * 4 + [True] + [False] * 3
    assert table.to_decode(np.array([4.5])).tolist() == [True] * 6 + [False] * 2
    assert table.to_decode(np.array([1.0, 9.0])).tolist() == [True] * 3 + [False] + [True] * 4


def test_unsorted_times_are_refused(tmp_path):
    path = write_clip(tmp_path / "a.mp4", seconds=0.4, sound=False)
    with pytest.raises(ValueError, match="sorted"):
        read_clip(path, select=lambda info: np.array([0.3, 0.1]))
