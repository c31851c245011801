"""A live session: what it knows after any pieces, saves and batch mates is what one forward over the whole knows."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from model.tiny import enliven

from mirasol.answer.answerer import Answerer
from mirasol.answer.generation import GeneratedAnswer
from mirasol.answer.ranking import Ranking
from mirasol.answer.session import StreamSession, advance
from mirasol.chunks.stream import ClosedChunk
from mirasol.media import Clip
from mirasol.media.resample import Resampler
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from tests.waiting import wait_for

WINDOW = 5
QUESTION = "which color is named?"
KINDS = {
    "transformer": {},
    "history": {"combiner_config": {"num_history_chunks": 2}},
    "ttm": {"combiner_config": {"combiner_type": "ttm"}},
    "mean_pool": {"combiner_config": {"combiner_type": "mean_pool"}},
    "windows": {"temporal_config": {"window_chunks": WINDOW}, "text_config": {"window_chunks": WINDOW}},
}
SETTINGS = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def kind(request, loaded) -> Answerer:
    """An answerer of each kind of model, lively enough that every input matters."""
    return make(loaded, request.param)


@pytest.fixture(scope="module")
def windowed(loaded) -> Answerer:
    return make(loaded, KINDS["windows"])


def make(loaded, values: dict) -> Answerer:
    model, processor = loaded
    config = copy.deepcopy(model.config)
    for part, fields in values.items():
        for name, value in fields.items():
            setattr(getattr(config, part), name, value)
    config = type(config).from_dict(config.to_dict())
    return Answerer(enliven(MirasolForConditionalGeneration(config)).eval(), processor, max_new_tokens=6).streaming


def film(seconds: float, rate: int = 16_000, seed: int = 0) -> dict:
    """Frames at 25 a second, and noise that comes and goes."""
    generator = np.random.default_rng(seed)
    times = np.arange(round(25 * seconds)) / 25
    frames = generator.integers(0, 255, (len(times), 24, 24, 3), dtype=np.uint8)
    sound = generator.uniform(-0.5, 0.5, round(seconds * rate)) * np.sin(np.arange(round(seconds * rate)) / rate * 9)
    return {"frames": frames, "times": times, "sound": sound.astype(np.float32), "rate": rate}


def offline(answerer: Answerer, media: dict, use_video=True, use_audio=True, dtype=torch.float32):
    """The encoder's outputs of one forward over the whole."""
    waveform = Resampler(media["rate"]).push(media["sound"], last=True) if use_audio else None
    frames, times = (media["frames"], media["times"]) if use_video else (None, None)
    clip = Clip(frames, times, waveform, duration=len(media["sound"]) / media["rate"])
    inputs = answerer.processor.chunk_clip(clip, sampling="dense")
    if dtype == torch.float32:
        return answerer.watch(inputs).encoder_outputs
    model = copy.deepcopy(answerer.model).to(dtype)
    return Answerer(model, answerer.processor).watch(inputs).encoder_outputs


def push(session, media: dict, sizes, start: float = 0.0, end: float = math.inf, **options):
    """Pushes the seconds from `start` to `end` in pieces of `sizes` hundredths of a second."""
    end, results, turn = min(end, len(media["sound"]) / media["rate"]), [], 0
    while start < end - 1e-9:
        stop = min(start + sizes[turn % len(sizes)] / 100, end)
        turn += 1
        pieces = {}
        chosen = (media["times"] >= start - 1e-9) & (media["times"] < stop - 1e-9)
        if session.chunks.use_video and chosen.any():
            pieces |= {"frames": media["frames"][chosen], "frame_times": media["times"][chosen]}
        first, last = (round(second * media["rate"]) for second in (start, stop))
        if session.chunks.use_audio:
            pieces |= {"waveform": media["sound"][first:last], "sampling_rate": media["rate"]}
        results += session.push(**pieces, **options)
        start = stop
    return results


def assert_known(session: StreamSession, expected, exact) -> None:
    """The retained latents are the last of the offline ones, within twice its own rounding."""
    latents = session.stream_cache["latents"]
    shape = (1, -1, *latents.shape[2:])
    whole, truth = (outputs.last_hidden_state.reshape(shape) for outputs in (expected, exact))
    error = (whole - truth).abs().max()
    count = latents.shape[1]
    assert (latents - whole[:, -count:]).abs().max() <= 2 * error
    surprises = [result.surprise for result in session.results if result.surprise is not None]
    np.testing.assert_allclose(surprises, expected.surprise[0, 1:].tolist(), atol=1e-4)


@SETTINGS
@given(
    sizes=st.lists(st.integers(1, 170), min_size=1, max_size=4),
    rate=st.sampled_from([8_000, 16_000, 44_100]),
    use=st.sampled_from([(True, True), (True, False), (False, True)]),
    seconds=st.floats(2.3, 4.0),
)
def test_a_stream_knows_what_one_forward_knows(kind, sizes, rate, use, seconds):
    media = film(seconds, rate)
    tracks = dict(zip(("use_video", "use_audio"), use, strict=True))
    session = StreamSession(kind, start_time=0.0, **tracks)
    push(session, media, sizes)
    session.flush()
    assert_known(session, offline(kind, media, **tracks), offline(kind, media, **tracks, dtype=torch.float64))


def test_the_answer_of_a_stream_is_that_of_the_whole(kind):
    media = film(3.1)
    session = StreamSession(kind, start_time=0.0)
    push(session, media, [7, 43])
    session.flush()
    watched = kind.watch(kind.processor.chunk_clip(
        Clip(media["frames"], media["times"], media["sound"], duration=3.1), sampling="dense"
    ))  # fmt: skip
    ((expected,),) = kind.answer(watched, [[QUESTION]])
    found = session.ask(QUESTION)
    assert found.answer == expected.text
    assert found.confidence == pytest.approx(expected.confidence, rel=1e-3)
    count = session.stream_cache["latents"].shape[1]
    assert found.seen == pytest.approx(((10 - count) * 0.32, 3.2))
    assert sum(part.weight for part in found.attributed_to) > 0
    assert all(found.seen[0] <= part.start < part.end <= found.seen[1] + 1e-6 for part in found.attributed_to)


def test_asking_changes_nothing(kind):
    media = film(3.0)
    asked, silent = (StreamSession(kind, start_time=0.0) for _ in range(2))
    for second in range(3):
        for session in (asked, silent):
            push(session, media, [50], second, second + 1)
        if asked.results:
            asked.ask(QUESTION)
            asked.ask(QUESTION, options=["red", "green"])
    assert list(asked.results) == list(silent.results)
    for name, value in silent.stream_cache.items():
        assert torch.equal(asked.stream_cache[name], value), name


def test_sessions_of_a_batch_give_what_each_gives_alone(kind):
    films = [film(seconds, seed=seed) for seed, seconds in enumerate((3.0, 1.7, 2.6, 0.9, 2.2))]
    alone = []
    for media in films:
        session = StreamSession(kind, start_time=0.0)
        push(session, media, [40])
        alone.append(session)
    together = [StreamSession(kind, start_time=0.0) for _ in films]
    for tenth in range(0, 30, 4):
        for session, media in zip(together, films, strict=True):
            push(session, media, [40], tenth / 10, (tenth + 4) / 10, watch=False)
        advance(together)
    for session, other, media in zip(together, alone, films, strict=True):
        assert [r.index for r in session.results] == [r.index for r in other.results]
        surprises = [[r.surprise for r in each.results if r.surprise is not None] for each in (session, other)]
        np.testing.assert_allclose(*surprises, atol=1e-4)
        latents = other.stream_cache["latents"]
        error = offline(kind, media).last_hidden_state - offline(kind, media, dtype=torch.float64).last_hidden_state
        assert (session.stream_cache["latents"][:, -latents.shape[1] :] - latents).abs().max() <= 2 * error.abs().max()


RESUMED = """
import sys
from mirasol.answer.answerer import Answerer
from mirasol.answer.session import StreamSession
sys.path[:0] = [sys.argv[1]]
from answer.test_session import film, push
session = StreamSession.load(sys.argv[3], Answerer.load(sys.argv[2], max_new_tokens=6))
push(session, film(3.3, 44_100), [33], 1.3)
session.flush()
session.save(sys.argv[4])
"""


def test_a_session_goes_on_in_another_process_with_the_same_bits(untrained, tmp_path, repository):
    media = film(3.3, 44_100)
    answerer = Answerer.load(untrained, max_new_tokens=6)
    whole = StreamSession(answerer, start_time=0.0)
    push(whole, media, [33], 0.0, 1.3)
    whole.save(tmp_path / "saved")
    push(whole, media, [33], 1.3)
    whole.flush()
    command = [sys.executable, "-c", RESUMED, repository / "tests", untrained, tmp_path / "saved", tmp_path / "end"]
    subprocess.run(command, check=True)
    resumed = StreamSession.load(tmp_path / "end", answerer)
    assert list(resumed.results) == list(whole.results)
    assert resumed.stream_cache.keys() == whole.stream_cache.keys()
    for name, value in whole.stream_cache.items():
        assert torch.equal(resumed.stream_cache[name], value), name


def test_every_field_of_a_session_is_saved(windowed, tmp_path):
    options = {"allowed_lateness": 1.5, "start_time": 3.0, "crop": (0.5, 0.25, 0.75)}
    media, session = film(4.2), StreamSession(windowed, **options)
    media["times"] += 3.0
    session.push(frames=media["frames"][:50], frame_times=media["times"][:50])
    session.push(waveform=media["sound"][:32_000], sampling_rate=16_000)
    session.push(frames=media["frames"][50:], frame_times=media["times"][50:])
    session.push(frames=media["frames"][:1], frame_times=media["times"][:1])  # late, hence counted
    session.push(waveform=media["sound"][32_000:], sampling_rate=16_000, watch=False)
    assert session.waiting and session.dropped and session._surprises[0]
    loaded = StreamSession.load(session.save(tmp_path / "open"), windowed)
    assert loaded._options == {**options, "crop": list(options["crop"])}
    for name in ("is_closed", "_was_real", "_surprises", "results", "dropped"):
        assert getattr(loaded, name) == getattr(session, name), name
    assert [chunk.index for chunk in loaded.waiting] == [chunk.index for chunk in session.waiting]
    assert loaded.chunks.allowed_lateness == 1.5 and loaded.chunks.video.last_time == session.chunks.video.last_time
    assert loaded.close() == session.close()
    assert StreamSession.load(session.save(tmp_path / "closed"), windowed).is_closed


def test_a_surprise_is_set_against_those_before_it(windowed):
    session, surprises = StreamSession(windowed), [0.3, 0.1, 0.4, 0.1, 0.5, 0.9, 0.2, 0.6, 0.5, 0.3]
    masks = {name: torch.tensor([True]) for name in ("video_chunk_mask", "audio_chunk_mask")}
    chunk = ClosedChunk(0, {"chunk_times": torch.tensor([[0.0, 0.32]]), **masks})
    absent = ClosedChunk(0, {**chunk.inputs, **{name: ~mask for name, mask in masks.items()}})
    first = session._record(chunk, 7.0)  # nothing predicted it
    assert first.surprise is None and first.surprise_z is None
    found = [session._record(chunk, value) for value in surprises]
    assert [result.surprise for result in found] == surprises
    expected = [(surprises[i] - np.mean(surprises[:i])) / np.std(surprises[:i], ddof=1) for i in (8, 9)]
    assert [result.surprise_z for result in found[:8]] == [None] * 8
    assert [result.surprise_z for result in found[8:]] == pytest.approx(expected)
    assert session._record(absent, 7.0).surprise is None and session._record(chunk, 7.0).surprise is None


def test_a_model_without_windows_gets_those_of_its_budget_and_keeps_its_own_config(loaded):
    answerer = Answerer(*loaded)
    session = StreamSession(answerer, use_video=False, start_time=0.0)
    push(session, film(6.0), [100])
    assert session.stream_cache["latents"].shape[1] == answerer.processor.max_chunks < 18
    assert answerer.model.config.text_config.window_chunks is None
    assert session.answerer.model.lm_head.weight is answerer.model.lm_head.weight


def test_state_and_results_stop_growing(windowed, monkeypatch):
    monkeypatch.setattr("mirasol.answer.session.KEPT_RESULTS", 7)
    session, sizes = StreamSession(windowed, start_time=0.0, use_video=False), []
    for _ in range(60):
        session.push(waveform=film(0.32)["sound"], sampling_rate=16_000)
        sizes.append(session.stream_cache.nbytes)
    assert len(set(sizes[10:])) == 1
    assert [result.index for result in session.results] == list(range(53, 60))


def test_a_session_of_other_weights_or_grid_is_refused(windowed, loaded, tmp_path):
    session = StreamSession(windowed, use_video=False)
    session.push(waveform=film(0.4)["sound"], sampling_rate=16_000)
    folder = session.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="session with the model"):
        StreamSession.load(folder, Answerer(*loaded))
    record = json.loads((folder / "session.json").read_text())
    record["made_of"]["grid"]["max_chunks"] += 1
    (folder / "session.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="session with the grid"):
        StreamSession.load(folder, windowed)


def test_a_folder_of_other_files_is_not_replaced_and_another_format_is_refused(windowed, tmp_path):
    session, notes = watched(windowed), tmp_path / "mine" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(ValueError, match="mine, found other files. Name another"):
        session.save(notes.parent)
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"]
    folder = session.save(session.save(tmp_path / "saved"))
    record = json.loads((folder / "session.json").read_text()) | {"format": 2}
    (folder / "session.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="session with the format 1, found in .* one with 2"):
        StreamSession.load(folder, windowed)


@pytest.mark.parametrize("damage", ["session.json", "session.safetensors"])
def test_a_session_saved_half_is_refused(windowed, tmp_path, damage):
    session = StreamSession(windowed, use_video=False)
    session.push(waveform=film(0.4)["sound"], sampling_rate=16_000)
    folder = session.save(tmp_path / "saved")
    file = folder / damage
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="none that is whole"):
        StreamSession.load(folder, windowed)
    with pytest.raises(ValueError, match="found none that is whole"):
        StreamSession.load(tmp_path / "nothing", windowed)


def test_questions_that_cannot_be_answered_say_why(windowed):
    session = StreamSession(windowed, use_video=False)
    with pytest.raises(ValueError, match="found empty text"):
        session.ask(" ")
    with pytest.raises(ValueError, match="at least one watched chunk"):
        session.ask(QUESTION)
    session.close()
    with pytest.raises(ValueError, match="found a closed one"):
        session.push(waveform=film(0.4)["sound"], sampling_rate=16_000)


def watched(answerer, seconds: float = 1.0, start: float = 0.0, **options) -> StreamSession:
    session = StreamSession(answerer, use_video=False, start_time=start)
    push(session, film(seconds), [32], **options)
    return session


@pytest.mark.parametrize("number", [10_000_000, 123_456_789])
def test_a_chunk_far_from_the_start_is_watched_as_the_first(windowed, number):
    near, far = (StreamSession(windowed, start_time=0.0) for _ in range(2))
    far.chunks.load_state(far.chunks.state() | {"num_closed": number})
    media = film(2.0)
    for session, offset in ((near, 0.0), (far, number * 0.32)):
        for second in range(2):
            frames, samples = slice(25 * second, 25 * second + 25), slice(16_000 * second, 16_000 * second + 16_000)
            session.push(media["frames"][frames], media["times"][frames] + offset, media["sound"][samples],
                         second + offset, 16_000)  # fmt: skip
    assert [result.index - number for result in far.results] == [result.index for result in near.results]
    for name in ("latents", "projected", "prediction"):
        assert torch.equal(far.stream_cache[name], near.stream_cache[name]), name
    assert far.ask(QUESTION).answer == near.ask(QUESTION).answer


def test_chunks_that_wait_are_saved_and_a_saved_session_may_be_moved(windowed, tmp_path):
    media, session = film(2.5), StreamSession(windowed, start_time=np.float32(0), allowed_lateness=np.int64(2))
    push(session, media, [45], end=0.9)
    push(session, media, [45], 0.9, 1.8, watch=False)
    loaded = StreamSession.load(session.save(tmp_path / "saved").rename(tmp_path / "moved"), windowed)
    assert len(loaded.waiting) == len(session.waiting) > 1
    for each in (session, loaded):
        push(each, media, [45], 1.8)
        each.flush()
    assert list(loaded.results) == list(session.results)
    assert all(torch.equal(value, loaded.stream_cache[name]) for name, value in session.stream_cache.items())


def test_a_session_is_refused_by_the_same_weights_in_another_dtype_or_with_another_window(windowed, tmp_path):
    half = Answerer(copy.deepcopy(windowed.model).bfloat16(), windowed.processor, max_new_tokens=3)
    session = watched(half)
    folder = session.save(tmp_path / "saved")
    assert StreamSession.load(folder, half).ask(QUESTION) == session.ask(QUESTION)
    single = Answerer(copy.deepcopy(half.model).float(), windowed.processor)
    other = Answerer(copy.deepcopy(half.model), windowed.processor)
    other.model.config.temporal_config.window_chunks += 1
    trained = Answerer(copy.deepcopy(half.model), windowed.processor)
    trained.model.lm_head.weight.data[0, 0] += 1
    for answerer in (single, other, trained):
        with pytest.raises(ValueError, match="session with the model"):
            StreamSession.load(folder, answerer)


def test_a_model_that_fails_loses_no_chunk(windowed, monkeypatch):
    session = watched(windowed, watch=False)
    waiting = list(session.waiting)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(windowed, "advance", lambda *_: (_ for _ in ()).throw(MemoryError))
        advance([session])
    assert list(session.waiting) == waiting
    advance([session])
    assert list(session.results) == list(watched(windowed).results)


def test_sessions_of_other_models_do_not_advance_together(windowed):
    other = Answerer(copy.deepcopy(windowed.model), windowed.processor)
    one, two = (watched(answerer, watch=False) for answerer in (windowed, other))
    for sessions in ([one, two], [one, one]):
        with pytest.raises(ValueError, match="sessions of one answerer, each once"):
            advance(sessions)
    assert len(one.waiting) == len(two.waiting) == 3


def test_other_threads_may_ask_while_one_pushes(windowed):
    session, found, done = watched(windowed, 0.7), [], threading.Event()

    def ask():
        while not done.is_set():
            answer = session.ask(QUESTION, attribute=False)
            found.append(answer.seen[1] <= session.seconds)

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask) for _ in range(2)]
        wait_for(lambda: found or any(thread.done() for thread in asking))
        push(session, film(4.0), [10], 0.7)
        done.set()
        for thread in asking:
            thread.result()
    assert found and all(found)
    assert [result.index for result in session.results] == list(range(12))


@pytest.mark.slow
def test_a_session_killed_while_it_is_saved_is_whole_or_absent(windowed, tmp_path):
    session, found = watched(windowed), []
    for turn in range(20):
        folder = tmp_path / f"saved{turn}"
        child = os.fork()
        if child == 0:
            while True:
                session.save(folder)
        if turn % 2:
            wait_for(folder.exists)  # and kill it while it saves the next one
        time.sleep(0.005 * (turn + 1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found.append(folder.exists())
        if folder.exists():
            assert list(StreamSession.load(folder, windowed).results) == list(session.results)
        session.save(folder)  # over what the killed one left
        assert StreamSession.load(folder, windowed).ask(QUESTION) == session.ask(QUESTION)
    assert any(found)


def test_options_are_ranked_by_the_sum_over_their_tokens(windowed, monkeypatch):
    session = watched(windowed)
    ranking = Ranking(("a long one", "short"), (-3.0, -2.0), (3, 1))
    monkeypatch.setattr(Answerer, "rank", lambda *_: [[ranking]])
    found = session.ask(QUESTION, options=ranking.options)
    assert found.answer == "short" and found.confidence == pytest.approx(math.e / (1 + math.e))


def test_rounds_limit_each_of_many_sessions_begun_or_not(windowed):
    begun, new = (watched(windowed, seconds, watch=False) for seconds in (2.6, 1.0))
    advance([begun], rounds=1)
    assert len(begun.waiting) > 4 > len(new.waiting) > 1, "more wait than the rounds, and fewer"
    few = len(new.waiting)
    assert [len(found) for found in advance([begun, new], rounds=4)] == [4, few]
    assert [result.index for result in begun.results] == list(range(5))


def test_the_oldest_chunks_are_skipped(windowed):
    session = watched(windowed, 1.3, watch=False)
    session.skip(2)
    assert [result.has_audio for result in advance([session])[0]] == [False, False, True, True]
    assert session.dropped == {"skipped_chunks": 2}


def test_an_answer_that_is_cut_says_so(windowed, monkeypatch):
    session = watched(windowed)
    for is_cut in (True, False):
        given = GeneratedAnswer("red", -1.0, (7, 8), is_cut)
        monkeypatch.setattr(Answerer, "answer", lambda *_, streamer=None, given=given: [[given]])
        assert session.ask(QUESTION, attribute=False).is_cut is is_cut


def test_an_answer_saw_the_seconds_that_hold_media_and_rounds_limit_what_is_watched(windowed):
    session = watched(windowed, 1.3, watch=False)
    total = len(session.waiting)
    masks = {name: torch.zeros_like(value) for name, value in session.waiting[-1].inputs.items() if "mask" in name}
    last = ClosedChunk(total - 1, session.waiting.pop().inputs | masks)
    session.waiting.append(last)
    counted = session.dropped.get("skipped_chunks", 0)
    assert [len(found) for found in advance([session], rounds=1)] == [1] and len(session.waiting) == total - 1
    advance([session])
    assert session.retained()[1] == pytest.approx((0.0, 0.32 * (total - 1))) and session.seconds > 0.32 * (total - 1)
    session.waiting.append(last)
    session.skip(1)
    assert session.dropped.get("skipped_chunks", 0) == counted  # nothing was lost: the chunk held no media
