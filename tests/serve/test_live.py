"""Media of live sessions: a closed one takes none, and pictures without timestamps are stamped one after the other."""

import asyncio
from types import SimpleNamespace

import pytest

from mirasol.serve import realtime_session
from mirasol.serve.engine import Engine
from mirasol.serve.realtime_session import RealtimeSession
from mirasol.serve.service import Service
from tests.serve.live_media import live_media


@pytest.fixture
def engine(shipped, tmp_path):
    made = Engine(shipped, tmp_path)
    yield made
    made.close(0.0)


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
