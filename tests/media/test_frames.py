"""Frames as a player shows them: mirrored and turned by the file's matrix, in order of time."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from clips import write_clip

from mirasol.media import read_clip
from mirasol.media.frames import FrameDecoder


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),  # a selfie
        ((1, 0, 0, -1), lambda picture: picture[::-1]),
        ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda picture: picture[::-1, ::-1].transpose(1, 0, 2)),
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),  # a quarter turn clockwise
    ],
)
def test_a_picture_is_shown_as_the_matrix_says(tmp_path, matrix, shown):
    path = write_clip(tmp_path / "a.mp4", seconds=0.2, sound=False)
    stored = read_clip(path).frames
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = matrix
    width, height = stored.shape[2], stored.shape[1]
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ np.array([[a, b], [c, d]])
    x, y = -corners.min(axis=0)
    data[at : at + 36] = np.array(
        [a << 16, b << 16, 0, c << 16, d << 16, 0, int(x) << 16, int(y) << 16, 1 << 30], ">i4"
    ).tobytes()
    path.write_bytes(bytes(data))
    assert np.array_equal(read_clip(path).frames, np.stack([shown(picture) for picture in stored]))


def test_a_frame_at_or_before_the_one_shown_before_it_is_left_out_and_counted(monkeypatch):
    codec = SimpleNamespace(sample_aspect_ratio=None)
    stream = SimpleNamespace(
        codec_context=codec,
        time_base=Fraction(1, 10),
        average_rate=10,
        guessed_rate=None,
        base_rate=None,
        sample_aspect_ratio=None,
    )
    decoder = FrameDecoder(SimpleNamespace(format=SimpleNamespace(name="mp4")), stream)
    given = [
        SimpleNamespace(pts=pts, dts=None, width=8, height=6, side_data={}, is_corrupt=False)
        for pts in (3, 4, 4, 2, None, 7)
    ]
    monkeypatch.setattr(decoder, "_decode", lambda *_: iter(given))
    assert [time for time, _ in decoder.frames()] == pytest.approx([0.3, 0.4, 0.5, 0.7])
    assert any("2 frames are stamped at or before" in note for note in decoder.warnings())
