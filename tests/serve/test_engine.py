"""The engine gives each client what it would get alone, refuses at once what does not fit, and loses nothing."""

import copy
import random
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirasol.answer.answerer import Answerer
from mirasol.answer.attribution import top_evidence
from mirasol.answer.session import StreamSession
from mirasol.media import read_clip
from mirasol.serve.decode import Decoded, Media, WatchOptions, decode
from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits
from mirasol.serve.queues import BusyError, FairQueue, UnknownIdError
from tests.clips import write_clip
from tests.waiting import PATIENCE, wait_for

QUESTIONS = ("which color is named?", "what is said?", "which digit is named?", "which letter is named in this clip?")


@pytest.fixture(scope="module")
def variants(files, tmp_path_factory) -> list[tuple[Path, WatchOptions]]:
    """Clips as they are, without sound, without picture, and shorter and longer ones, so that rows are padded."""
    folder = tmp_path_factory.mktemp("clips")
    both, deaf, blind = WatchOptions(), WatchOptions(use_audio=False), WatchOptions(use_video=False)
    short = write_clip(folder / "short.mp4", seconds=0.9)
    long = write_clip(folder / "long.mp4", seconds=5.0)
    return [(files[0], both), (files[1], both), (files[2], deaf), (files[3], blind), (short, both), (long, both)]


@pytest.fixture(scope="module")
def alone(shipped, variants):
    """What each clip's questions get from an `Answerer` by itself: texts, confidences, top evidence."""
    found = {}
    for number, (file, options) in enumerate(variants):
        chunks = decode(Media(video=file), options, shipped.processor, Limits()).chunks
        watched = shipped.watch(chunks)
        for question in QUESTIONS:
            ((given,),) = shipped.answer(watched, [[question]])
            (share,) = shipped.attribute(watched, [[question]], [[given]])
            outputs = watched.encoder_outputs
            evidence = top_evidence(share[0], outputs.chunk_times[0].clamp(max=5.0), outputs.chunk_mask[0])
            found[number, question] = given.text, given.confidence, evidence[0]
    return found


def run(engine: Engine, *futures: Future) -> list:
    """Step until all futures are done."""

    def are_done() -> bool:
        return all(future.done() for future in futures)

    wait_for(lambda: are_done() or (engine.step(), are_done())[1])
    return [future.result() for future in futures]


def pieces(file: Path, seed: int) -> list[dict]:
    """A clip as pushes of uneven length."""
    clip, draw = read_clip(file), random.Random(seed)
    found, start = [], 0.0
    while start < clip.duration:
        end = start + draw.uniform(0.05, 0.7)
        inside = (clip.frame_times >= start) & (clip.frame_times < end)
        sound = clip.waveform[round(start * 16_000) : round(end * 16_000)]
        media = {"waveform": sound, "start_time": start, "sampling_rate": 16_000} if len(sound) else {}
        if inside.any():
            media |= {"frames": clip.frames[inside], "frame_times": clip.frame_times[inside]}
        found.append(media)
        start = end
    return found


def media_until(file: Path, seconds: float) -> dict:
    """The first seconds of a clip as one push."""
    clip = read_clip(file)
    shown, sound = clip.frame_times < seconds, clip.waveform[: round(seconds * clip.sampling_rate)]
    return {"frames": clip.frames[shown], "frame_times": clip.frame_times[shown], "waveform": sound,
            "start_time": 0.0, "sampling_rate": clip.sampling_rate}  # fmt: skip


def test_clips_beyond_the_memory_are_read_again_and_answered_as_those_inside(shipped, tmp_path, files):
    roomy = Engine(shipped, tmp_path)
    clips = run(roomy, *(roomy.watch(Media(video=file)) for file in files[:4]))
    size = roomy.clips._num_bytes(clips[0].tensors)
    expected = run(roomy, *(roomy.ask(clip.id, QUESTIONS[0]) for clip in clips))
    roomy.close(0.0)
    bounds = Limits(clip_memory_bytes=int(2.5 * size))  # two of four, and a sixteenth of it is less than one clip
    tight = Engine(shipped, tmp_path, bounds)
    kept = [tight.clips.get(clip.id) for clip in clips]
    assert [tight.clips.recent(clip.id) is not None for clip in clips] == [False, False, True, True]
    assert all("projected" not in clip.view().watched.encoder_outputs for clip in kept)
    assert all("projected" in clip.view().watched.encoder_outputs for clip in clips)
    mixed = [clips[0], kept[1], clips[2], kept[3]]
    for found in (kept, mixed):
        replies = run(tight, *(tight.ask(clip, QUESTIONS[0]) for clip in found))
        assert [reply.text for reply in replies] == [reply.text for reply in expected]
        assert [reply.confidence for reply in replies] == pytest.approx([reply.confidence for reply in expected])
    assert tight.counts["question_batches"] == 2, "clips with and without keys share a call"
    tight.close(0.0)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_any_interleaving_of_clients_gives_each_what_it_gets_alone(shipped, engine, variants, alone, files, seed):
    draw = random.Random(seed)
    clips = {n: engine.watch(Media(video=f), o, f"client {n % 3}") for n, (f, o) in enumerate(variants)}
    pushed = {s: pieces(files[s], seed + s) for s in (3, 4, 5)}
    sessions = {s: engine.open({"start_time": 0.0}) for s in pushed}
    twins = {s: StreamSession(shipped, start_time=0.0) for s in pushed}
    asked: list[tuple] = []
    todo = [("ask", n, q) for n in clips for q in QUESTIONS] + [("push", s, None) for s in pushed for _ in pushed[s]]
    draw.shuffle(todo)
    for what, which, question in todo:
        if what == "push":
            media = pushed[which].pop(0)
            engine.push(sessions[which], **media)
            twins[which].push(**media)
            if draw.random() < 0.4 and twins[which].results:
                future = engine.ask(sessions[which], QUESTIONS[0])
                asked.append((future, twins[which].ask(QUESTIONS[0], attribute=False)))
                run(engine, future)  # later pushes would be seen
        else:
            (clip,) = run(engine, clips[which])
            future = engine.ask(clip.id, question, attribute=draw.random() < 0.5, client=str(which))
            asked.append((future, alone[which, question]))
        if draw.random() < 0.2:
            engine.step()
    replies = run(engine, *(future for future, _ in asked))
    for reply, (_, expected) in zip(replies, asked, strict=True):
        if isinstance(expected, tuple):
            text, confidence, evidence = expected
            assert reply.text == text and reply.confidence == pytest.approx(confidence, rel=1e-4)
            for found in reply.attributed_to[:1]:
                assert found.start == evidence.start and found.end <= evidence.end
                assert found.weight == pytest.approx(evidence.weight, rel=1e-3)
        else:
            assert (reply.text, reply.seen) == (expected.answer, expected.seen)
            assert reply.confidence == pytest.approx(expected.confidence, rel=1e-4)
    for s, id in sessions.items():
        live, twin = engine.session(id).session, twins[s]
        assert [result.index for result in live.results] == [result.index for result in twin.results]
        for one, other in zip(live.results, twin.results, strict=True):
            assert (one.has_video, one.has_audio) == (other.has_video, other.has_audio)
            assert (one.surprise or 0.0) == pytest.approx(other.surprise or 0.0, rel=1e-3)
    assert engine.counts["question_batches"] < engine.counts["questions"] == len(asked)


def test_a_question_to_a_session_sees_all_that_was_pushed_before_it(engine, files):
    id = engine.open({"start_time": 0.0})
    for media in pieces(files[0], 0):
        engine.push(id, **media)
    engine.flush(id)
    reply = run(engine, engine.ask(id, QUESTIONS[0]))[0]
    assert reply.seen == pytest.approx((0.0, 3.2))


def test_bytes_that_are_watched_already_are_not_decoded_again(shipped, tmp_path, files):
    decoded, all_asked = [], threading.Event()

    def count(media, *others):
        decoded.append(media)
        all_asked.wait(PATIENCE)
        return decode(media, *others)

    engine = Engine(shipped, tmp_path, decode=count)
    data = files[0].read_bytes()
    sources = [Media(video=data), Media(video=files[0]), Media(video=data)]
    futures = [engine.watch(media) for media in sources]
    all_asked.set()
    ids = {clip.id for clip in run(engine, *futures)}
    ids |= {run(engine, engine.watch(Media(video=data)))[0].id}
    assert len(ids) == len(decoded) == 1
    other = run(engine, engine.watch(Media(video=data), WatchOptions(use_audio=False)))[0]
    assert other.id not in ids and len(decoded) == 2
    engine.close(0.0)


def test_clips_and_sessions_survive_a_restart(shipped, tmp_path, files):
    first = Engine(shipped, tmp_path).start()
    clip = first.watch(Media(video=files[0])).result(PATIENCE)
    before = first.ask(clip.id, QUESTIONS[1]).result(PATIENCE)
    session = first.open({"start_time": 0.0})
    media = pieces(files[0], 0)
    for piece in media[:3]:
        first.push(session, **piece)
    first.close()
    second = Engine(shipped, tmp_path).start()
    assert second.ask(clip.id, QUESTIONS[1]).result(PATIENCE) == before
    assert second.watch(Media(video=files[0].read_bytes())).result(0).id == clip.id
    second.resume(session)
    for piece in media[3:]:
        second.push(session, **piece)
    second.flush(session)
    assert second.ask(session, QUESTIONS[1]).result(PATIENCE).text == before.text
    second.close_session(session)
    with pytest.raises(UnknownIdError):
        second.ask(session, QUESTIONS[1])
    second.close()


def test_a_clip_is_watched_again_by_a_server_with_other_settings(shipped, tmp_path, files):
    first = Engine(shipped, tmp_path)
    (clip,) = run(first, first.watch(Media(video=files[0])))
    first.close(0.0)
    processor = copy.deepcopy(shipped.processor)
    processor.max_chunks = 4
    second = Engine(Answerer(shipped.model, processor), tmp_path)
    (again,) = run(second, second.watch(Media(video=files[0])))
    assert (len(clip.tensors["chunk_mask"]), len(again.tensors["chunk_mask"])) == (10, 4)
    with pytest.raises(UnknownIdError):
        second.ask(clip.id, QUESTIONS[0])
    second.close(0.0)


def test_facts_of_a_clip_that_another_process_has_written_are_seen(shipped, tmp_path, files):
    first, second = Engine(shipped, tmp_path).start(), Engine(shipped, tmp_path)
    clip = first.watch(Media(video=files[0])).result(60)
    assert second.clips.get(clip.id).facts["files"] == {}
    first.clips.store.set_facts(clip.id, {**clip.facts, "files": {"video": "file_new"}})
    assert second.clips.reread(clip.id).facts["files"] == {"video": "file_new"}
    first.close()
    second.close()


def test_what_was_accepted_is_finished_and_new_work_is_refused_while_the_engine_drains(shipped, tmp_path, files):
    gate = threading.Event()

    def slow(*arguments):
        gate.wait(PATIENCE)
        return decode(*arguments)

    engine = Engine(shipped, tmp_path, decode=slow).start()
    future = engine.watch(Media(video=files[0]))
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_for(lambda: engine.is_draining)
    with pytest.raises(BusyError):
        engine.watch(Media(video=files[1]))
    with pytest.raises(BusyError):
        engine.open()
    gate.set()
    assert future.result(PATIENCE).id.startswith("clip_")
    closing.join(PATIENCE)
    assert not closing.is_alive() and not engine.is_alive


def test_an_engine_that_closes_refuses_questions_and_clips_that_still_wait(shipped, tmp_path):
    engine = Engine(shipped, tmp_path, decode=lambda *_: Decoded({}, {}))  # `step` is never called
    clip = SimpleNamespace(view=None)
    futures = [engine.ask(clip, QUESTIONS[0]), engine.watch(Media(video=b"data"))]
    engine.close(0.0)
    for future in futures:
        with pytest.raises(BusyError):
            future.result(0)
    with pytest.raises(BusyError):
        engine.ask(clip, QUESTIONS[0])


def test_a_full_queue_refuses_at_once_and_says_how_long_to_wait(shipped, tmp_path, files):
    limits = Limits(waiting_questions=4, share_of_one_client=0.5, waiting_clips=2, decoders=1, sessions=1)
    gate = threading.Event()

    def slow(*arguments):
        gate.wait(PATIENCE)
        return decode(*arguments)

    engine = Engine(shipped, tmp_path, limits, decode=slow)
    clips = [engine.watch(Media(video=file), client=file.stem) for file in files[:2]]
    with pytest.raises(BusyError, match="found 2 of at most 2.*Try again in") as refused:
        engine.watch(Media(video=files[2]), client="another")
    assert refused.value.retry_after >= 1
    gate.set()
    id = run(engine, *clips)[0].id
    futures = [engine.ask(id, QUESTIONS[0], client="greedy") for _ in range(2)]
    with pytest.raises(BusyError):
        engine.ask(id, QUESTIONS[0], client="greedy")
    futures += [engine.ask(id, QUESTIONS[0], client=name) for name in ("a", "b")]
    with pytest.raises(BusyError):
        engine.ask(id, QUESTIONS[0], client="c")
    assert {reply.text for reply in run(engine, *futures)} == {"blue"}
    engine.open()
    with pytest.raises(BusyError, match="live sessions"):
        engine.open()
    engine.close(0.0)


def test_clients_are_served_in_turn():
    queue: FairQueue[str] = FairQueue("things", 100)
    for number in range(20):
        queue.put("greedy", f"greedy {number}")
    for name in ("a", "b"):
        queue.put(name, name)
    assert queue.take(4) == ["greedy 0", "a", "b", "greedy 1"]
    assert len(queue) == 18 and queue.take(100)[-1] == "greedy 19" and queue.take(1) == []


def test_a_full_queue_tells_the_seconds_that_all_its_items_take_at_their_mean_pace():
    queue: FairQueue[int] = FairQueue("things", 3)
    queue.note(6.0, 2)  # 3 s each: the mean moves a fifth of the way to it, from 0.1 s
    for number in range(3):
        queue.put("a", number)
    with pytest.raises(BusyError) as refused:
        queue.put("b", 4)
    assert refused.value.retry_after == pytest.approx(3 * (0.8 * 0.1 + 0.2 * 3.0))


def test_a_file_that_cannot_be_read_fails_alone(engine, files):
    bad = engine.watch(Media(video=b"no media at all"))
    good = engine.watch(Media(video=files[0]))
    assert run(engine, good)[0].facts["video"] == "used"
    with pytest.raises(ValueError, match="[Ee]xpected"):
        bad.result(PATIENCE)
    assert engine.clips.num_waiting == 0


def test_a_clip_that_the_model_cannot_take_fails_alone(shipped, tmp_path, files):
    def poisoned(media, *others):
        decoded = decode(media, *others)
        if media.video == files[1]:
            decoded.chunks["pixel_values_videos"] = decoded.chunks["pixel_values_videos"][..., :7]
        return decoded

    engine = Engine(shipped, tmp_path, decode=poisoned)
    futures = [engine.watch(Media(video=file)) for file in files[:3]]
    wait_for(lambda: len(engine.clips._decoded) == 3)
    engine.step()
    assert [future.exception(0) is None for future in futures] == [True, False, True]
    engine.close(0.0)


@pytest.mark.parametrize("limits, sizes", [
    ({"chunks_at_once": 6}, [2, 2, 1]), ({"chunks_at_once": 1}, [1] * 5), ({"clips_at_once": 4}, [4, 1]),
])  # fmt: skip
def test_clips_are_encoded_together_within_the_limits_and_a_longer_one_alone(
    shipped, tmp_path, variants, monkeypatch, limits, sizes
):
    known = decode(Media(video=variants[4][0]), WatchOptions(), shipped.processor, Limits())  # three chunks
    engine = Engine(shipped, tmp_path, Limits(**limits), lambda *_: Decoded(known.chunks, known.facts))
    futures = [engine.watch(Media(video=b"%d" % number)) for number in range(5)]
    wait_for(lambda: len(engine.clips._decoded) == 5)
    watch, batches = shipped.watch, []
    monkeypatch.setattr(shipped, "watch", lambda *clips: (batches.append(len(clips)), watch(*clips))[1])
    run(engine, *futures)
    assert batches == sizes
    engine.close(0.0)


def test_a_chunk_after_a_gap_surprises_nobody(engine, tmp_path):
    path = write_clip(tmp_path / "gap.mkv", seconds=1.6, sound_gap=(0.3, 1.0), picture=False)
    facts = run(engine, engine.watch(Media(video=path)))[0].facts
    assert facts["has_audio"] == [True, False, False, True, True] and not any(facts["has_video"])
    assert [value is None for value in facts["surprise"]] == [True, True, True, True, False]


def test_the_seconds_of_an_answer_end_with_the_clip(engine, variants):
    (clip,) = run(engine, engine.watch(Media(video=variants[4][0])))  # its last chunk ends 0.04 s after it
    reply = run(engine, engine.ask(clip.id, QUESTIONS[0], attribute=True))[0]
    ends = [max(part.end for part in reply.attributed_to), reply.seen[1]]
    assert len(reply.attributed_to) == 3 and ends == pytest.approx([clip.facts["seconds"]] * 2)


def test_a_question_that_waits_for_its_chunks_is_refused_when_the_engine_closes(shipped, tmp_path, files):
    engine = Engine(shipped, tmp_path)
    id = engine.open({"start_time": 0.0})
    for media in pieces(files[0], 0):
        engine.push(id, **media)
    future = engine.ask(id, QUESTIONS[0])
    assert not engine._answer_questions() and engine._held
    engine.close(0.0)
    with pytest.raises(BusyError):
        future.result(0)


def test_a_session_whose_chunk_fails_ends_alone(engine, files):
    ids = [engine.open({"start_time": 0.0}) for _ in range(2)]
    for media in pieces(files[0], 0):
        for id in ids:
            engine.push(id, **media)
    engine.session(ids[0]).collect(100.0)
    chunk = engine.session(ids[0]).session.waiting[0]
    chunk.inputs["pixel_values_videos"] = chunk.inputs["pixel_values_videos"][:, :1]
    while engine.step():
        pass
    assert engine.session(ids[1]).session.results[-1].index == 8
    with pytest.raises(UnknownIdError):
        engine.session(ids[0])


def test_chunks_watched_before_one_that_fails_are_told(engine, files):
    told: dict[int, list[int]] = {0: [], 1: []}
    ids = [
        engine.open({"start_time": 0.0}, on_chunks=lambda results, told=each: told.extend(r.index for r in results))
        for each in told.values()
    ]
    for id, seconds in zip(ids, (0.7, 2.0), strict=True):  # the first rounds watch two chunks of each
        engine.push(id, **media_until(files[0], seconds))
        engine.session(id).collect(100.0)
    waiting = engine.session(ids[1]).session.waiting
    assert len(waiting) == 6
    waiting[4].inputs["pixel_values_videos"] = waiting[4].inputs["pixel_values_videos"][:, :1]
    while engine.step():
        pass
    assert told == {0: [0, 1], 1: [0, 1, 2, 3]} and list(engine.sessions) == ids[:1]
    assert engine.counts["chunks"] == 6 and engine.counts["failures"] == 1


def test_chunks_are_skipped_only_where_the_client_allows_it(shipped, tmp_path, files):
    engine = Engine(shipped, tmp_path, Limits(session_lag_seconds=1.0))
    skipping, waiting = engine.open({"start_time": 0.0}, may_skip=True), engine.open({"start_time": 0.0})
    for media in pieces(files[0], 0):
        engine.push(skipping, **media)
        engine.push(waiting, **media)
    while engine.step():
        pass
    assert engine.session(skipping).session.dropped["skipped_chunks"] == engine.counts["skipped_chunks"] == 8
    assert engine.session(waiting).session.dropped == {}
    engine.close(0.0)


@pytest.mark.parametrize("id", ["", "clip_0", "sess_0", "file_" + "0" * 32, "../../etc/passwd", "clip_" + "0" * 32])
def test_an_unknown_id_is_refused(engine, id):
    with pytest.raises(ValueError):
        engine.ask(id, QUESTIONS[0])
