"""The chunks of a live source are those of the whole, whatever the pieces; one test per rule of event time."""

import math
import warnings
from itertools import cycle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mirasol.chunks.stream import ChunkStream
from mirasol.media import Clip
from mirasol.media.resample import Resampler

SETTINGS = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
    phases=(Phase.generate,),
)


def noise(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def pictures(count: int, size: tuple[int, int] = (17, 19)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (count, *size, 3), dtype=np.uint8)


def joined(chunks) -> dict[str, torch.Tensor]:
    found = {name: torch.cat([chunk.inputs[name] for chunk in chunks]) for name in chunks[0].inputs}
    return found | {"chunk_times": found["chunk_times"].float()}


def offline(processor, frames, times, waveform, audio_start=0.0) -> dict[str, torch.Tensor]:
    """The chunks of the same media as one clip, `dense`."""
    video_end = 0.0 if times is None else times[-1] + 0.04
    audio_end = 0.0 if waveform is None else audio_start + len(waveform) / 16_000
    clip = Clip(frames, times, waveform, audio_start=audio_start, duration=max(video_end, audio_end))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return processor.chunk_clip(clip, sampling="dense")


def assert_equal_chunks(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def push_in_pieces(stream, frames, times, samples, audio_start, rate, cuts, steps):
    """Pushes both modalities in the order of time, cut where the lists say; returns the closed chunks."""
    chunks, frame, sample = [], 0, 0
    step = cycle([*steps, 400])
    while frame < len(frames) or sample < len(samples):
        sound_time = audio_start + sample / rate
        if frame < len(frames) and (sample >= len(samples) or times[frame] <= sound_time):
            count = min(next(step) % 5 + 1, len(frames) - frame)
            chunks += stream.push(frames=frames[frame : frame + count], frame_times=times[frame : frame + count])
            frame += count
        else:
            count = min(next(step) * cuts + 1, len(samples) - sample)
            start = audio_start if sample == 0 else None
            chunks += stream.push(waveform=samples[sample : sample + count], start_time=start, sampling_rate=rate)
            sample += count
    return chunks + stream.flush()


class SavedAtEachPush:
    """A stream that is another object after each push, continued from the state of the one before."""

    def __init__(self, processor, stream):
        self.processor, self.stream = processor, stream

    def push(self, **media):
        chunks = self.stream.push(**media)
        state = self.stream.state()
        self.stream = ChunkStream(self.processor)
        self.stream.load_state(state)
        return chunks

    def flush(self):
        return self.stream.flush()

    @property
    def dropped(self):
        return self.stream.dropped


@SETTINGS
@given(
    seconds=st.floats(0.05, 3.0),
    sound_seconds=st.floats(0.02, 3.0),
    sound_start=st.floats(0.0, 1.0),
    frame_rate=st.sampled_from([5.0, 12.5, 25.0, 29.97, 120.0]),
    rate=st.sampled_from([8_000, 16_000, 44_100, 48_000]),
    steps=st.lists(st.integers(0, 900), min_size=1, max_size=9),
    saved=st.booleans(),
)
def test_chunks_of_a_stream_are_those_of_the_whole(
    processor, seconds, sound_seconds, sound_start, frame_rate, rate, steps, saved
):
    times = np.arange(max(round(seconds * frame_rate), 1)) / frame_rate
    frames, samples = pictures(len(times)), noise(sound_seconds, rate)
    stream = ChunkStream(processor, allowed_lateness=math.inf, start_time=0.0)
    if saved:
        stream = SavedAtEachPush(processor, stream)
    found = push_in_pieces(stream, frames, times, samples, sound_start, rate, 7, steps)
    waveform = Resampler(rate).push(samples, last=True)
    assert_equal_chunks(joined(found), offline(processor, frames, times, waveform, sound_start))
    assert not stream.dropped


@pytest.mark.parametrize("start", [0.0, 1e6 + 1 / 3])
def test_frames_stamped_in_milliseconds_are_placed_as_in_the_whole(processor, start):
    """Many lie 1 ms beside a moment of the grid; hours on the source's clock round their floats otherwise."""
    times = np.sort(np.random.default_rng(0).choice(2_000, 600, replace=False)) / 1_000
    frames = pictures(600)
    stream = ChunkStream(processor, use_audio=False, start_time=start)
    chunks = stream.push(frames=frames, frame_times=times + start) + stream.flush()
    assert_equal_chunks(joined(chunks), offline(processor, frames, times, None))


def test_sound_that_comes_twice_is_counted(processor):
    stream = ChunkStream(processor, use_video=False, start_time=0.0)
    stream.push(waveform=noise(1.0), start_time=0.0, sampling_rate=16_000)
    stream.push(waveform=noise(1.0), start_time=0.5)
    assert dict(stream.dropped) == {"repeated_audio_seconds": 0.5}


@pytest.mark.parametrize("media", [
    {"waveform": noise(0.1), "sampling_rate": "16000"},
    {"waveform": noise(0.1), "sampling_rate": 16_000, "start_time": "0"},
    {"frames": 5, "frame_times": [0.0]},
    {"frame_times": [0.0]},
    {"start_time": 1.0},
])  # fmt: skip
def test_arguments_of_other_types_and_stamps_of_nothing_are_refused(processor, media):
    with pytest.raises(ValueError, match="pass"):
        ChunkStream(processor, start_time=0.0).push(**media)


def test_tensors_of_any_float_are_sound(processor):
    stream = ChunkStream(processor, use_video=False)
    samples = torch.zeros(16_000, dtype=torch.bfloat16, requires_grad=True)
    assert len(stream.push(waveform=samples, sampling_rate=16_000)) == 3


def test_a_chunk_waits_for_the_slower_modality(processor):
    stream = ChunkStream(processor, start_time=0.0)
    assert stream.push(frames=pictures(20), frame_times=np.arange(20) / 25) == []
    (first,) = stream.push(waveform=noise(0.33), sampling_rate=16_000)
    assert (first.index, first.has_video, first.has_audio) == (0, True, True)
    assert first.seconds == pytest.approx((0.0, 0.32))


def test_a_chunk_closes_without_the_modality_that_is_too_late(processor):
    stream = ChunkStream(processor, start_time=0.0, allowed_lateness=0.5)
    assert stream.push(frames=pictures(21), frame_times=np.arange(21) / 25) == []  # 0.80 s: not yet 0.32 + 0.5
    (first,) = stream.push(frames=pictures(1), frame_times=[0.84])
    assert (first.has_video, first.has_audio) == (True, False)
    # Sound for 0 to 0.32 s is late, the rest is in time for chunk 1.
    chunks = stream.push(waveform=noise(0.7), start_time=0.0, sampling_rate=16_000)
    assert [chunk.index for chunk in chunks] == [1] and chunks[0].has_audio
    assert stream.dropped["late_audio_seconds"] == pytest.approx(0.32)
    assert_equal_chunks(joined(chunks), {
        name: value[1:2] for name, value in
        offline(processor, pictures(22), np.arange(22) / 25, noise(0.7)[5120:], audio_start=0.32).items()
    } | {"pixel_values_videos": chunks[0].inputs["pixel_values_videos"]})  # fmt: skip


def test_sound_that_the_resampler_holds_back_counts_when_its_chunk_closes_late(processor):
    stream = ChunkStream(processor, start_time=0.0, allowed_lateness=0.5)
    stream.push(waveform=noise(0.3, 48_000), sampling_rate=48_000)
    (first, *_) = stream.push(frames=pictures(22), frame_times=np.arange(22) / 25)
    waveform = Resampler(48_000).push(noise(0.3, 48_000), last=True)
    expected = offline(processor, None, None, waveform)
    assert torch.equal(first.inputs["input_features"], expected["input_features"])


def test_a_late_frame_and_a_repeated_one_are_dropped_and_counted(processor):
    stream = ChunkStream(processor, use_audio=False, start_time=0.0)
    frames = pictures(12)
    stream.push(frames=frames, frame_times=np.arange(12) / 25)  # 0 to 0.44 s: chunk 0 is closed
    assert stream.push(frames=frames[:2], frame_times=[0.2, 0.44]) == []
    assert dict(stream.dropped) == {"repeated_frames": 2}
    stream = ChunkStream(processor, start_time=0.0, allowed_lateness=0.0)
    stream.push(waveform=noise(0.4), sampling_rate=16_000)
    stream.push(frames=frames[:2], frame_times=[0.1, 0.35])
    assert dict(stream.dropped) == {"late_frames": 1}


def test_a_pause_of_both_gives_empty_chunks_in_their_place(processor):
    stream = ChunkStream(processor, start_time=0.0, use_audio=False)
    stream.push(frames=pictures(8), frame_times=np.arange(8) / 25)
    chunks = stream.push(frames=pictures(9), frame_times=1.6 + np.arange(9) / 25)
    assert [(chunk.index, chunk.has_video) for chunk in chunks] == [
        (0, True), (1, False), (2, False), (3, False), (4, False), (5, True)
    ]  # fmt: skip
    assert not any(chunk.inputs["pixel_values_videos"].any() for chunk in chunks[1:5])


def test_a_gap_in_sound_is_absent_sound(processor):
    stream = ChunkStream(processor, use_video=False, start_time=0.0)
    stream.push(waveform=noise(0.32), sampling_rate=16_000)
    chunks = stream.push(waveform=noise(0.5), start_time=1.0)
    assert [(c.index, c.has_audio) for c in [*chunks, *stream.flush()]] == [
        (1, False), (2, False), (3, True), (4, True)
    ]  # fmt: skip


def test_the_first_media_pushed_is_the_start_of_time(processor):
    stream = ChunkStream(processor)
    stream.push(frames=pictures(3), frame_times=[100.0, 100.04, 100.08])
    stream.push(waveform=noise(0.33), start_time=100.0, sampling_rate=16_000)
    (first,) = stream.push(frames=pictures(1), frame_times=[100.33])
    assert first.seconds == pytest.approx((0.0, 0.32)) and stream.start_time == 100.0


def test_the_earliest_media_of_the_first_push_are_the_start_of_time_and_an_empty_push_is_none(processor):
    sound = {"waveform": noise(0.4), "sampling_rate": 16_000}
    for times, start in ((100.2, 100.0), (100.0, 100.2)):
        stream = ChunkStream(processor)
        stream.push(frames=[], frame_times=[])
        stream.push(waveform=[], sampling_rate=16_000)
        assert stream.start_time is None
        stream.push(frames=pictures(1), frame_times=[times], start_time=start, **sound)
        assert stream.start_time == 100.0


def test_a_pause_may_last_ten_minutes_and_any_piece_may_bridge_it(processor):
    stream = ChunkStream(processor, start_time=0.0)
    with pytest.raises(ValueError, match="Media at 601.00 s .* come 601.00 s after all before"):
        stream.push(
            waveform=noise(0.4), start_time=601.0, frames=pictures(2), frame_times=[0.0, 0.4], sampling_rate=8_000
        )
    with pytest.raises(ValueError, match="Media at 700.00 s .* come 600.10 s after"):
        stream.push(frames=pictures(2), frame_times=[99.9, 700.0])
    stream.push(frames=pictures(2), frame_times=[300.4, 600.8])
    assert stream.video.last_time == 600.8


@pytest.mark.parametrize("jitter", [0.0, 0.019])
def test_pieces_stamped_within_twenty_milliseconds_of_their_place_join_without_a_seam(processor, jitter):
    samples = noise(1.0)
    streams = [ChunkStream(processor, use_video=False, start_time=0.0) for _ in range(2)]
    found: list[list] = [[], []]
    for number in range(10):
        piece = {"waveform": samples[1_600 * number : 1_600 * number + 1_600], "sampling_rate": 16_000}
        stamp = number / 10 + (jitter if number % 2 else -jitter if number else 0.0)
        for stream, chunks, start in zip(streams, found, (None, stamp), strict=True):
            chunks += stream.push(**piece, start_time=start)
    for stream, chunks in zip(streams, found, strict=True):
        chunks += stream.flush()
    assert not streams[1].dropped and len(found[1]) == 4
    assert_equal_chunks(joined(found[1]), joined(found[0]))


def test_stereo_and_int16_are_the_mean_of_floats(processor):
    left, right = ((noise(0.64, seed=seed) * 32_767).round().astype(np.int16) for seed in (0, 1))
    sound = (left / np.float32(32_768) + right / np.float32(32_768)) / 2
    mono = ChunkStream(processor, use_video=False).push(waveform=sound, sampling_rate=16_000)
    stereo = ChunkStream(processor, use_video=False).push(waveform=np.stack([left, right]), sampling_rate=16_000)
    assert_equal_chunks(joined(stereo), joined(mono))


def test_frames_may_change_their_size(processor):
    stream = ChunkStream(processor, use_audio=False)
    frames = [*pictures(4), *pictures(5, (34, 38))]
    (first,) = stream.push(frames=frames, frame_times=np.arange(9) / 25)
    assert torch.equal(
        first.inputs["pixel_values_videos"][0, 4:],
        processor.image_processor.to_pixel_values(
            processor.image_processor.crop_and_resize(pictures(5, (34, 38))[:4])
        ),
    )


BAD = {
    "a frame without its time": ({"frames": pictures(2), "frame_times": [0.5]}, "Every frame needs its second"),
    "a time that is no number": ({"frames": pictures(1), "frame_times": [math.nan]}, "Every frame needs its second"),
    "float frames": ({"frames": pictures(1) / 255, "frame_times": [0.5]}, "must be uint8"),
    "grey frames": ({"frames": pictures(1)[..., 0], "frame_times": [0.5]}, "must have the shape"),
    "sound without its rate": ({"waveform": noise(0.1)}, "needs its sampling_rate"),
    "whole numbers": ({"waveform": np.zeros(9, np.int32), "sampling_rate": 16_000}, "must hold floats"),
    "channels last": ({"waveform": np.zeros((99, 2), np.float32), "sampling_rate": 16_000}, "must have the shape"),
    "a clock that jumps": ({"frames": pictures(1), "frame_times": [4e9]}, "clock is broken"),
    "sound that starts at no number": (
        {"waveform": noise(0.1), "sampling_rate": 16_000, "start_time": math.inf}, "start_time is the second"
    ),
}  # fmt: skip


@pytest.mark.parametrize("media, message", BAD.values(), ids=BAD)
def test_bad_input_is_refused_and_changes_nothing(processor, media, message):
    stream = ChunkStream(processor, start_time=0.0)
    with pytest.raises(ValueError, match=message):
        stream.push(**media)
    good = {"frames": pictures(9), "frame_times": np.arange(9) / 25, "waveform": noise(0.4), "sampling_rate": 16_000}
    chunks = stream.push(**good)
    assert_equal_chunks(joined(chunks), joined(ChunkStream(processor, start_time=0.0).push(**good)))


def test_a_modality_that_was_not_declared_is_refused(processor):
    with pytest.raises(ValueError, match="use_video=False"):
        ChunkStream(processor, use_video=False).push(frames=pictures(1), frame_times=[0.0])
    with pytest.raises(ValueError, match="use_audio=False"):
        ChunkStream(processor, use_audio=False).push(waveform=noise(0.1), sampling_rate=16_000)


def test_a_long_stream_holds_a_few_frames_and_seconds_of_sound(processor):
    stream, held = ChunkStream(processor, start_time=0.0), []
    for second in range(60):
        stream.push(frames=pictures(120), frame_times=second + np.arange(120) / 120)
        stream.push(waveform=noise(1.0), sampling_rate=16_000)
        held.append((len(stream.video.times), sum(len(piece) for _, piece in stream.audio.segments)))
    assert max(frames for frames, _ in held) <= 25 + 10  # one second at 25 frames, where 120 came
    assert max(samples for _, samples in held) <= 16_000
