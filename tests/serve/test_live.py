"""Media of live sessions: a closed one takes none, and pictures without timestamps are stamped one after the other."""

import asyncio
from collections import deque
from types import SimpleNamespace

import pytest

from mirasol.serve import realtime_session
from mirasol.serve.engine import Engine
from mirasol.serve.live import LiveSession
from mirasol.serve.realtime_session import RealtimeSession
from mirasol.serve.service import Service
from tests.serve.live_media import live_media


@pytest.fixture
def engine(shipped, tmp_path):
    made = Engine(shipped, tmp_path)
    yield made
    made.close(0.0)


@pytest.mark.parametrize("count, late, skipped", [(8, 0.0, 0), (8, 0.1, 5), (10, 0.0, 6), (10, 1.0, 8), (3, 9.0, 3)])
def test_a_session_too_far_behind_keeps_half_of_the_lag_less_the_age_of_its_media(count, late, skipped):
    found: list[int] = []
    chunks = SimpleNamespace(num_closed=0, grid=SimpleNamespace(seconds_per_chunk=0.5))
    session = SimpleNamespace(chunks=chunks, waiting=deque(range(count)), skip=found.append)
    live = LiveSession("sess_0", session, may_skip=True)  # type: ignore[arg-type]
    live.late_seconds = late
    assert live.collect(4.0) == skipped and sum(found) == skipped
    live.may_skip = False
    assert live.collect(4.0) == 0


def test_a_late_session_is_late_until_half_of_the_lag_is_made_up(engine):
    async def run() -> None:
        session = RealtimeSession(Service(engine), lambda event: None)
        session.open(None)
        for when_behind in ("wait", "skip"):
            await session.handle({"type": "session.update", "session": {"mirasol": {"when_behind": when_behind}}})
            for seconds, is_full, is_late in (
                (5.0, False, False), (5.1, False, True), (2.6, False, True), (2.5, False, False), (4.9, False, False),
                (0.1, True, True), (0.1, False, False),
            ):  # fmt: skip
                session.note_delay(seconds, is_full)
                assert session._is_late == (is_late and when_behind == "skip"), seconds

    asyncio.run(asyncio.wait_for(run(), 60))


def test_pictures_without_timestamps_are_spread_over_the_sound_beside_them(engine, clip, monkeypatch):
    times, push = [], engine.push
    monkeypatch.setattr(engine, "push", lambda id, **media: (times.append(media["frame_times"]), push(id, **media)))

    async def run() -> None:
        session = RealtimeSession(Service(engine), lambda event: None)
        session.open(None)
        piece = live_media(clip).pieces()[0]  # of 0.4 s
        media = {"audio": piece["audio"], "video_frames": piece["video_frames"][:4]}
        for start in ({}, {}, {"audio_start": 3.0}):
            await session.handle({"type": "input_audio_buffer.append", **media, **start})
        with pytest.raises(ValueError, match="start_time is the second"):
            await session.handle({"type": "input_audio_buffer.append", **media, "audio_start": "soon"})

    asyncio.run(asyncio.wait_for(run(), 60))
    expected = [start + place / 10 for start in (0.0, 0.4, 3.0) for place in range(4)]
    assert [time for piece in times[:3] for time in piece] == pytest.approx(expected)


def test_a_closed_session_takes_no_more_media(engine):
    id = engine.open({"start_time": 0.0})
    live = engine.session(id)
    engine.close_session(id)
    with pytest.raises(ValueError, match="Expected an open session"):
        live.push(waveform=[0] * 16_000, sampling_rate=16_000)


def test_stamps_of_the_clock_increase_also_while_it_stands_or_is_set_back_by_sound(engine, clip, monkeypatch):
    clock = SimpleNamespace()
    monkeypatch.setattr(realtime_session, "time", clock)
    piece = live_media(clip).pieces()[0]
    picture, sound = {"video_frames": piece["video_frames"][:1]}, {"audio": piece["audio"]}

    async def run() -> list[float]:
        session, stamps = RealtimeSession(Service(engine), lambda event: None), []
        session.open(None)
        chunks = engine.session(session.id).session.chunks
        for second, media in ((7.0, picture), (7.0, picture), (7.9, picture), (7.9, sound), (7.9, picture)):
            clock.monotonic = lambda second=second: second
            await session.handle({"type": "input_audio_buffer.append", **media})
            stamps += [chunks.video.last_time] if media is picture else []
        assert not chunks.dropped and chunks.audio.end < stamps[-1]
        return stamps

    stamps = asyncio.run(asyncio.wait_for(run(), 60))
    assert stamps == sorted(set(stamps)), stamps
