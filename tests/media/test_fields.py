"""Frames that PyAV or FFmpeg hand out in an unusual way: two packets a frame, side data of an unknown kind."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import numbered_picture, picture_number
from PIL import Image

from mirasol.media import probe, read_clip

TICKS = 90_000


def bits(*fields: tuple[int, int] | int) -> str:
    """Fields of a bit stream: (value, number of bits), or an Exp-Golomb number."""
    written = [
        f"{field[0]:0{field[1]}b}"
        if isinstance(field, tuple)
        else "0" * ((field + 1).bit_length() - 1) + f"{field + 1:b}"
        for field in fields
    ]
    return "".join(written)


def unit(kind: int, payload: str, raw: bytes = b"") -> bytes:
    """A NAL unit of H.264; `raw` follows the payload at the next byte."""
    payload += "" if raw else "1"
    payload += "0" * (-len(payload) % 8)
    body = int(payload, 2).to_bytes(len(payload) // 8, "big") + raw + (b"\x80" if raw else b"")
    for zeros in (b"\0\0\0", b"\0\0\1", b"\0\0\2", b"\0\0\3"):
        body = body.replace(zeros, b"\0\0\3" + zeros[2:])
    return b"\0\0\0\1" + bytes([kind]) + body


def field_coded(path, num_frames: int):
    """Interlaced H.264 of 16 x 32 pixels at 25 frames a second as AVCHD cameras write it: each field is a packet.

    Each field is one macroblock of raw samples; frame n has luma 40 + 10 n.
    """
    timing = bits((0, 4), (1, 1), (1, 32), (50, 32), (1, 1), (0, 4))  # 50 fields a second
    parameters = unit(
        0x67, bits((77, 8), (0, 8), (10, 8), 0, 0, 2, 1, (0, 1), 0, 0, (0, 1), (0, 1), (1, 1), (0, 1), (1, 1)) + timing
    )
    parameters += unit(0x68, bits(0, 0, (0, 2), 0, 0, 0, (0, 1), (0, 2), 0, 0, 0, (0, 3)))
    packets = []
    for field in range(2 * num_frames):
        frame, bottom = divmod(field, 2)
        is_first = field == 0
        header = bits(0, 7, 0, (frame % 16, 4), (1, 1), (bottom, 1)) + (bits(0, (0, 2)) if is_first else bits((0, 1)))
        header += bits(0, 25)
        header += "0" * (-len(header) % 8)
        samples = bytes([40 + 10 * frame]) * 256 + b"\x80" * 128
        packets.append((parameters if is_first else b"") + unit(0x65 if is_first else 0x61, header, samples))
    path.with_suffix(".h264").write_bytes(b"".join(packets))
    with av.open(str(path.with_suffix(".h264"))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, TICKS)
            packet.pts = packet.dts = number * TICKS // 50
            packet.duration = TICKS // 50
            packet.is_keyframe = number == 0
            target.mux(packet)
    return path


@pytest.mark.parametrize("name", ["a.ts", "a.mp4"])
def test_two_fields_in_packets_of_their_own_are_one_frame(tmp_path, name):
    path = field_coded(tmp_path / name, 6)
    info = probe(path)
    assert info.num_frames == 6 and info.frame_rate == pytest.approx(25) and info.video_end == pytest.approx(0.24)
    clip = read_clip(path)
    assert clip.warnings == [] and clip.frame_times == pytest.approx(np.arange(6) / 25)
    luma = clip.frames.mean(axis=(1, 2, 3))
    few = read_clip(path, select=lambda info: np.array([0.1, 0.19]))
    assert few.warnings == [] and few.frame_times == pytest.approx([0.08, 0.16])
    assert few.frames.mean(axis=(1, 2, 3)) == pytest.approx(luma[[2, 4]]) and (np.diff(luma) > 5).all()


def test_side_data_of_an_unknown_kind_is_passed_over(tmp_path):
    """Photos carry their EXIF, spatial videos 3D reference displays: PyAV has no name for these kinds."""
    picture, exif = Image.fromarray(numbered_picture(9, 64, 48)), Image.Exif()
    exif[0x010F] = "a maker"
    data = io.BytesIO()
    picture.save(data, "JPEG", exif=exif, quality=95)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        packet = av.Packet(data.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 25)
        packet.is_keyframe = True
        container.mux(packet)
    with av.open(str(tmp_path / "a.mkv")) as container, pytest.raises(ValueError, match="not a valid Type"):
        _ = next(container.decode(video=0)).side_data
    clip = read_clip(tmp_path / "a.mkv")
    assert [picture_number(frame) for frame in clip.frames] == [9] and clip.warnings == []
