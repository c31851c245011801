"""Faults of a file are reported in the same words by `read_clip` and by a source that plays."""

import av
import numpy as np
import pytest
from clips import beep_times, picture_number, write_clip

from mirasol.media import probe, read_clip
from mirasol.media.live import Source
from mirasol.media.notes import SILENT


def played(path) -> tuple[list[dict], list[str]]:
    """The media of a source, and its warnings at the end."""
    player = Source(str(path))
    return list(player), player.warnings


def cut_inside_a_packet(path):
    data = write_clip(path / "a.mp4", seconds=4.0, options={"movflags": "faststart"}).read_bytes()
    with av.open(str(path / "a.mp4")) as container:
        middle = [packet for packet in container.demux(video=0) if packet.size][50]
        (path / "a.mp4").write_bytes(data[: middle.pos + middle.size // 2])
    return path / "a.mp4"


def cut_off_mkv(path):
    data = write_clip(path / "a.mkv", seconds=4.0).read_bytes()
    (path / "a.mkv").write_bytes(data[: len(data) // 2])
    return path / "a.mkv"


def cut_off_flv(path):
    """With a text tag, which FFmpeg lists as a track of subtitles."""
    write_clip(path / "a.mp4", seconds=4.0)
    with av.open(str(path / "a.mp4")) as source, av.open(str(path / "a.flv"), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                target.mux(packet)
    data = (path / "a.flv").read_bytes()
    text = b"\x02\0\x0aonTextData\x08\0\0\0\1\0\4text\x02\0\1a\0\0\x09"
    tag = b"\x12" + len(text).to_bytes(3, "big") + bytes(7) + text + (len(text) + 11).to_bytes(4, "big")
    (path / "a.flv").write_bytes(data[:13] + tag + data[13 : len(data) // 2])
    with av.open(str(path / "a.flv")) as container:
        assert "subtitle" in [stream.type for stream in container.streams]
    return path / "a.flv"


def damaged_frame(path):
    """The last two fifths of a frame are overwritten: it is decoded, and marked, unless slices have threads."""
    write_clip(path / "a.mp4", size=(160, 120), seconds=0.4, sound=False, b_frames=0)
    with av.open(str(path / "a.mp4")) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][4]
    data, end = bytearray((path / "a.mp4").read_bytes()), packet.pos + packet.size
    begin = packet.pos + int(0.6 * packet.size)
    data[begin:end] = b"\xff" * (end - begin)
    (path / "a.mp4").write_bytes(data)
    return path / "a.mp4"


def no_samples(path):
    data = bytearray(write_clip(path / "a.mp4", seconds=1.0).read_bytes())
    with av.open(str(path / "a.mp4")) as container:
        for packet in container.demux(audio=0):
            if packet.size:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    (path / "a.mp4").write_bytes(data)
    return path / "a.mp4"


def two_sound_tracks(path):
    with av.open(str(path / "a.mkv"), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=rate, layout="mono") for rate in (16_000, 48_000)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.full((1, stream.rate // 2), 99, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = stream.rate, 0
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
    return path / "a.mkv"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (cut_inside_a_packet, "1 packets are incomplete"),
        (cut_off_mkv, "The file states 4.0"),
        (cut_off_flv, "The file states 4.0"),
        (damaged_frame, "1 frames were decoded from damaged data"),
        (no_samples, "The sound track holds no sample"),
        (two_sound_tracks, "The file has 2 sound tracks"),
    ],
)
def test_a_source_reports_what_read_clip_reports(tmp_path, make, words):
    path = make(tmp_path)
    read = [note for note in read_clip(path, warn=False).warnings if "wanted frames" not in note]
    assert any(note.startswith(words) for note in read)
    told = played(path)[1]
    assert sorted(told) == sorted(read)


def test_a_source_plays_the_chosen_sound_track(tmp_path):
    path = two_sound_tracks(tmp_path)
    for track, rate in ((0, 16_000), (1, 48_000)):
        player = Source(str(path), audio_stream=track)
        assert {piece["sampling_rate"] for piece in player} == {rate} and player.warnings == []


@pytest.mark.parametrize("tracks", [{"use_audio": False}, {"use_video": False}, {}])
def test_a_file_that_plays_begins_where_it_begins_when_read_also_without_a_track(tmp_path, tracks):
    path = write_clip(tmp_path / "a.mkv", frame_times=[0.5, 0.6, 0.7], sound_start=0.2, sound_seconds=0.4)
    clip, media = read_clip(path, **tracks), list(Source(str(path), **tracks))
    if clip.frames is not None:
        times = [piece["frame_times"][0] for piece in media if "frames" in piece]
        assert times == pytest.approx(clip.frame_times, abs=1e-6) and times[0] == pytest.approx(0.3, abs=0.01)
    if clip.waveform is not None:
        starts = [piece["start_time"] for piece in media if "waveform" in piece]
        assert starts[0] == pytest.approx(clip.audio_start, abs=1e-6)


def test_a_damaged_packet_at_the_end_loses_its_own_frame_only(tmp_path):
    """Frames that other threads of the decoder still hold when the error comes are not lost with it."""
    path = cut_inside_a_packet(tmp_path)
    clip = read_clip(path, warn=False)
    assert any(note.startswith("1 picture packets") for note in clip.warnings)
    numbers = [picture_number(frame) for frame in clip.frames]
    assert numbers == sorted(set(numbers)) and len(numbers) == probe(path).num_frames - 1


@pytest.mark.parametrize("silent", [True, False])
def test_a_source_whose_sound_is_silence_says_so(tmp_path, silent):
    path = write_clip(tmp_path / "a.mkv", seconds=1.5, silent=silent)
    assert played(path)[1] == [f"{path} {SILENT}"] * silent


def test_a_source_that_is_stopped_reports_the_faults_until_then(tmp_path):
    data = bytearray(write_clip(tmp_path / "a.mp3", seconds=2.0).read_bytes())
    data[4000:6000] = bytes(range(250)) * 8
    (tmp_path / "a.mp3").write_bytes(data)
    player = Source(str(tmp_path / "a.mp3"))
    for media in player:
        if media["start_time"] is not None and media["start_time"] > 1.5:
            break
    assert player.warnings


def loud_packet(path):
    """An mp3 of 2 s; the samples of one packet of 24 ms are thousands of times as loud as full scale."""
    data = bytearray(write_clip(path, seconds=2.0, channel_gains=(1.0,)).read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        at = min(packets, key=lambda packet: abs(packet.pts * packet.time_base - 0.99)).pos
    bits = np.unpackbits(np.frombuffer(data[at : at + 40], np.uint8))
    for gain in (71, 130):  # of both granules: 8 bits each
        bits[gain : gain + 8] = 1
    data[at : at + 40] = np.packbits(bits).tobytes()
    path.write_bytes(data)
    return path


def test_one_damaged_packet_that_decodes_to_absurd_samples_is_left_out(tmp_path):
    path = loud_packet(tmp_path / "a.mp3")
    clip = read_clip(path, warn=False)
    assert np.abs(clip.waveform).max() < 1.5 and clip.duration == pytest.approx(probe(path).duration_seconds, abs=0.1)
    assert beep_times(clip.waveform, clip.audio_start)[::2] == pytest.approx([0.5, 1.5], abs=0.05)
    assert any("sound packets could not be decoded" in note for note in clip.warnings)
    media, notes = played(path)
    assert max(np.abs(piece["waveform"]).max() for piece in media) < 1.5
    assert sorted(notes) == sorted(clip.warnings)


def test_raw_sound_whose_length_is_a_guess_is_not_cut_off(tmp_path):
    """FFmpeg estimates the length of ADTS by its first packets: here 2 s of noise before 4 of silence."""
    with av.open(str(tmp_path / "a.aac"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        noise = np.random.default_rng(0).uniform(-1, 1, (1, 96_000)).astype(np.float32)
        noise[:, 32_000:] = 0
        for first in range(0, 96_000, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(noise[:, first : first + 1024]), "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert read_clip(tmp_path / "a.aac", warn=False).warnings == []


def test_tags_behind_the_last_packet_are_no_fault(tmp_path):
    """The demuxer of WavPack ends with an error where a tag follows."""
    with av.open(str(tmp_path / "a.wv"), "w") as container:
        stream = container.add_stream("wavpack", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), 0.1, np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 16_000, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with (tmp_path / "a.wv").open("ab") as file:
        file.write(b"TAG" + b"a title".ljust(125, b" "))
    with av.open(str(tmp_path / "a.wv")) as container, pytest.raises(av.FFmpegError):
        list(container.demux())
    clip = read_clip(tmp_path / "a.wv", warn=False)
    assert clip.warnings == [] and clip.duration == pytest.approx(1.0)
    assert played(tmp_path / "a.wv")[1] == []


def test_garbage_behind_an_mp3_without_a_length_is_no_cut(tmp_path):
    path = write_clip(tmp_path / "a.mp3", seconds=2.0, options={"write_xing": "0"})
    path.write_bytes(path.read_bytes() + bytes(200_000))
    assert not any("states" in note for note in read_clip(path, warn=False).warnings)


def test_sound_without_any_time_is_as_long_for_probe_as_for_read_clip(tmp_path):
    """A single packet of ADTS has neither a time nor a duration."""
    whole = write_clip(tmp_path / "a.m4a", seconds=0.5)
    with av.open(str(tmp_path / "b.aac"), "w") as target, av.open(str(whole)) as source:
        stream = target.add_stream_from_template(source.streams.audio[0])
        packet = [packet for packet in source.demux(audio=0) if packet.size][5]
        packet.stream = stream
        target.mux(packet)
    with av.open(str(tmp_path / "b.aac")) as container:
        assert [packet.pts for packet in container.demux() if packet.size] == [None]
    lengths = probe(tmp_path / "b.aac").duration_seconds, read_clip(tmp_path / "b.aac").duration
    assert lengths == pytest.approx((1024 / 48_000,) * 2, abs=1 / 16_000)
