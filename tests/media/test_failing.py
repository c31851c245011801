"""Real and damaged files that were once read wrongly, each with its right value, and small twins made here."""

import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from clips import beep_times, picture_number, write_clip

from mirasol.media import MediaError, MediaWarning, probe, read_clip
from mirasol.media.clock import Clock
from mirasol.media.container import open_container, shows_a_frame
from mirasol.media.frames import FrameDecoder
from mirasol.media.live import Source


@pytest.fixture(scope="module")
def failing(shared):
    """The folder of the files; the test is skipped where it is absent."""
    return shared / "data" / "failing"


@pytest.mark.filterwarnings("ignore::mirasol.media.MediaWarning")
@pytest.mark.parametrize(
    ("name", "seconds", "num_frames", "sound"),
    [
        ("non_utf8_tag_video_desks.3gp", 5.248, 71, (0.0, 5.248)),
        ("non_utf8_tag.mp4", 1.0, 5, None),
        ("late_sound.flv", 120.006, 600, (109.975, 120.006)),
        ("claims_106168_s.mp4", 3.08, 13, (0.0, 2.688)),
        ("chained.ogg", 5.013, 0, (0.0, 5.013)),
        ("twice.ts", 8.057, 200, (0.0, 8.057)),
        ("vp9_hidden_frames.webm", 3.002, 72, None),
        ("elephant.asf", 27.671, 153, (0.387, 27.671)),
    ],
)
def test_what_is_there_is_read(failing, name, seconds, num_frames, sound):
    clip, info = read_clip(failing / name), probe(failing / name)
    assert clip.duration == pytest.approx(seconds, abs=2e-3)
    assert info.duration_seconds == pytest.approx(seconds, abs=0.15)  # the last packet of sound, undecoded
    assert (0 if clip.frames is None else len(clip.frames)) == num_frames
    assert (clip.waveform is None) == (sound is None) and info.has_audio == (sound is not None)
    if sound is not None:
        assert (clip.audio_start, clip.audio_end) == pytest.approx(sound, abs=2e-3)
        assert info.audio_start == pytest.approx(sound[0], abs=1e-3)


def test_frames_that_are_never_shown_are_not_counted(failing, tmp_path):
    assert probe(failing / "vp9_hidden_frames.webm").num_frames == 72
    assert probe(write_clip(tmp_path / "a.webm", seconds=0.4)).num_frames == 10


@pytest.mark.parametrize(
    ("codec", "first_bytes", "is_shown"),
    [
        ("vp8", b"\x10", True),
        ("vp8", b"\x00", False),
        ("vp9", b"\x82\x49", True),  # frame marker 10, profile 0, show_frame
        ("vp9", b"\x84\x49", False),
        ("vp9", b"\x88\x49", True),  # show_existing_frame
        ("vp9", b"\xb0\x49", False),  # profile 3 has one more bit
        ("vp9", b"\xb1\x49", True),
        ("vp9", b"\x84\x49\xc1", True),  # a superframe ends with its marker
        ("h264", b"\x00\x00", True),
    ],
)
def test_the_header_of_a_vp8_or_vp9_frame_says_whether_it_is_shown(codec, first_bytes, is_shown):
    class Packet(bytes):
        stream = type("Stream", (), {"codec_context": type("Codec", (), {"name": codec})})

    assert shows_a_frame(Packet(first_bytes)) is is_shown


def test_the_rate_of_frames_is_measured_where_the_header_is_far_off(failing):
    assert probe(failing / "elephant.asf").frame_rate == pytest.approx(5.6, abs=0.05)


def test_false_keyframes_are_found_out(failing):
    path = failing / "false_keyframes_MOV00006.3gp"
    straight = read_clip(path)
    with pytest.warns(MediaWarning, match="flagged as keyframes are none"):
        clip = read_clip(path, select=lambda info: np.arange(0, 15, 0.6))
    wanted = np.searchsorted(straight.frame_times, clip.frame_times)
    assert len(clip.frames) == 25
    assert np.array_equal(clip.frames, straight.frames[wanted])
    with pytest.warns(MediaWarning, match="flagged as keyframes are none"):
        part = read_clip(path, start=7.0, end=9.0)
    first = np.searchsorted(straight.frame_times, 7.0 + 1e-6) - 1
    assert np.array_equal(part.frames, straight.frames[first : first + len(part.frames)])


def test_a_damaged_stamp_is_reported(failing):
    with pytest.warns(MediaWarning, match=r"3 packets are to be decoded and shown more than 600 s apart"):
        read_clip(failing / "claims_106168_s.mp4")


def test_a_frame_that_only_one_thread_decodes_is_read(failing):
    clip = read_clip(failing / "no_frame_second_pass.mp4", warn=False)
    assert len(clip.frames) == 1 and "41 picture packets could not be decoded and were left out." in clip.warnings


def test_gaps_of_hours_are_gaps_and_take_no_memory(failing):
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here
    before = peak_mib()
    clip = read_clip(failing / "gaps_550s.mkv")
    assert clip.duration == pytest.approx(32_450.1, abs=0.2)
    assert len(clip.audio_gaps) == 59
    start, end = clip.audio_gaps[0]
    assert end - start == pytest.approx(549.9, abs=0.11)
    assert clip.waveform.nbytes > 2_000_000_000
    assert peak_mib() - before < 1_000  # the zeros lie in no memory, or it were 2_000; what is heard is 2


def peak_mib() -> float:
    """The largest resident memory of this process."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def test_a_gap_in_the_sound_is_listed(failing, tmp_path):
    (gap,) = read_clip(failing / "sound_gap_1_to_3_s.mkv").audio_gaps
    assert gap == pytest.approx((1.0, 3.0), abs=0.03)
    path = write_clip(tmp_path / "a.mkv", seconds=3, sound_gap=(1.0, 2.0))
    ((start, end),) = read_clip(path).audio_gaps
    assert (start, end) == pytest.approx((1.0, 2.0), abs=0.03)
    part = read_clip(path, start=0.5, end=1.5)
    assert part.audio_gaps == [] and part.audio_end == pytest.approx(start - 0.5, abs=2e-3)
    part = read_clip(path, start=1.2, end=2.5)
    assert part.audio_gaps == [(0.0, pytest.approx(end - 1.2, abs=2e-3))]
    assert read_clip(path, start=2.3).audio_gaps == []


def test_two_recordings_in_one_file_follow_each_other(tmp_path):
    part = write_clip(tmp_path / "part.ts", seconds=1.2, at=(0.5,)).read_bytes()
    with pytest.warns(MediaWarning, match="clock restarts"):
        clip = read_clip(part + part)
    assert [picture_number(frame) for frame in clip.frames] == [*range(30)] * 2
    assert clip.duration == pytest.approx(2 * read_clip(part).duration, abs=0.05)
    first, second = beep_times(clip.waveform, clip.audio_start)
    # In step with its own picture: the second recording is moved as one piece.
    assert second - first == pytest.approx(clip.frame_times[30] - clip.frame_times[0], abs=3e-3)


def test_a_clock_keeps_tracks_of_a_part_in_step():
    clock = Clock()
    for k in range(4):
        clock.place(0, k * 0.5, k * 0.5, 0.5)
        clock.place(1, k * 0.5, k * 0.5, 0.5)
    assert clock.place(0, 0.1, 0.1, 0.5)[0] == pytest.approx(2.0)
    assert clock.place(1, 1.6, 1.6, 0.4)[0] == pytest.approx(1.6)  # still of the first part
    assert clock.place(1, 0.0, 0.0, 0.5)[0] == pytest.approx(1.9)
    assert clock.restarts == 1 and clock.jumps == 0
    assert clock.place(0, 9000.0, 9000.0, 0.5)[0] == pytest.approx(2.5)
    assert clock.jumps == 1
    assert clock.place(0, None, None, 0.5)[:2] == (None, None)


def test_a_clock_lets_pauses_and_small_steps_be():
    clock = Clock()
    clock.place(0, 5.0, 5.0, 0.5)
    assert clock.place(0, 4.6, 4.6, 0.5)[0] == 4.6
    assert clock.place(0, 604.0, 604.0, 900.0) == (604.0, 604.0, 604.0)  # a packet is not believed to last 15 minutes
    assert clock.place(0, 605.0, 90_000.0, 0.5)[0] == 605.0
    assert clock.warnings() and not clock.restarts and not clock.jumps


def test_a_stream_that_appears_late_is_searched_for(tmp_path):
    path = tmp_path / "late.flv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("flv", rate=5)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("libmp3lame", rate=44_100, layout="mono")
        packets = []
        for number in range(300):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 200, np.uint8), "rgb24")
            frame.pts = number
            packets += video.encode(frame)
        packets += video.encode(None)
        for first in range(0, 44_100, 1152):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44_100, 50 * 44_100 + first
            packets += audio.encode(frame)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    data = bytearray(path.read_bytes())
    data[4] = 1  # the header tells of the picture alone
    path.write_bytes(data)
    with open_container(path) as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}
    clip = read_clip(path)
    assert clip.audio_start == pytest.approx(50.0, abs=0.03) and len(clip.frames) == 300


@pytest.mark.parametrize(
    "name", ["12:30.wav", "data:x.wav", "-x.wav", "файл.wav", "a b.wav", "http:x.wav", "100%.wav"]
)
def test_a_name_is_a_name_and_no_address(tmp_path, monkeypatch, name):
    shutil.copy(write_clip(tmp_path / "a.wav", seconds=0.5), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_clip(name).waveform) == 8_000
    assert probe(tmp_path / name).has_audio


def test_a_title_in_another_encoding_is_no_error(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "cafe"
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), "s16", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame) + stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"cafe", b"caf\xe9"))
    assert len(read_clip(path).waveform) == 1600


def test_frames_that_need_more_than_their_keyframe_are_decoded_from_the_beginning(tmp_path):
    """Intra refresh flags recovery points as keyframes; after a seek the first frames there are never given."""
    refresh = {"x264-params": "intra-refresh=1:keyint=20"}
    path = write_clip(tmp_path / "a.mp4", seconds=3, size=(160, 96), gop=20, sound=False, codec_options=refresh)
    with pytest.warns(MediaWarning, match="followed by frames that need more than them"):
        few = read_clip(path, select=lambda info: np.array([1.3, 2.5]))
    assert [picture_number(frame) for frame in few.frames] == [32, 62]
    part = read_clip(path, start=1.2, end=2.4, warn=False)
    assert [picture_number(frame) for frame in part.frames] == list(range(30, 60))


def test_frames_that_do_not_come_out_are_reported(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mkv", seconds=0.4, sound=False)
    timed = FrameDecoder.timed
    monkeypatch.setattr(FrameDecoder, "timed", lambda self, frames: (x for x in timed(self, frames) if x[0] != 0.2))
    with pytest.warns(MediaWarning, match="1 of the wanted frames could not be decoded"):
        assert len(read_clip(path).frames) == 9


def test_sound_whose_last_packet_gives_no_duration_is_as_long_as_its_samples(tmp_path):
    path = write_clip(tmp_path / "a.nut", seconds=1.0)
    assert probe(path).audio_end == pytest.approx(read_clip(path).audio_end, abs=1e-3)


def test_a_frame_stamped_at_the_end_of_a_segment_is_outside_in_every_container(tmp_path):
    for suffix in (".avi", ".mkv"):
        clip = read_clip(write_clip(tmp_path / f"a{suffix}", seconds=1.6, sound=False), start=1.6 * 0.4, end=1.6 * 0.8)
        assert [picture_number(frame) for frame in clip.frames] == list(range(16, 32))


def test_less_than_one_sample_of_sound_is_none(tmp_path):
    path = write_clip(tmp_path / "a.wav", seconds=1 / 48_000)
    with pytest.raises(MediaError, match="at least one frame or one sample"):
        read_clip(path)


def test_recordings_joined_in_one_file_play_to_their_end(tmp_path):
    path = write_clip(tmp_path / "a.ts", seconds=1.2)
    path.write_bytes(path.read_bytes() * 2)
    player = Source(str(path))
    media = list(player)
    assert sum("frames" in piece for piece in media) == 60
    times = [piece["frame_times"][0] for piece in media if "frames" in piece]
    assert times == pytest.approx(read_clip(path, warn=False).frame_times, abs=1e-6)
    assert any("clock restarts" in warning for warning in player.warnings)


def test_whatever_ends_the_decoding_of_a_source_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("mirasol.media.live.sound_pieces", lambda stream, packet: 1 / 0)
    with pytest.raises(MediaError, match="broke off .division by zero"):
        list(Source(str(write_clip(tmp_path / "a.wav")), timeout=5.0))


def test_packets_that_a_source_leaves_out_are_reported(tmp_path):
    path = write_clip(tmp_path / "a.mp3", seconds=2.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(range(250)) * 8
    path.write_bytes(data)
    player = Source(str(path))
    list(player)
    assert player.warnings


def test_slow_frames_stored_out_of_order_are_no_restart(tmp_path):
    """Matroska gives the first packets no decoding time, and the second is shown 0.6 s after the first."""
    clip = read_clip(write_clip(tmp_path / "a.mkv", frame_times=[0, 0.2, 0.4, 0.6, 0.8], sound=False))
    assert clip.warnings == []
    assert clip.frame_times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_the_last_frame_without_a_duration_is_shown_for_the_measured_interval(tmp_path):
    info = probe(write_clip(tmp_path / "a.ts", frame_times=[0, 0.2, 0.4, 0.6, 0.8], sound=False))
    assert info.video_end == pytest.approx(1.0) and info.frame_rate == pytest.approx(5.0)
