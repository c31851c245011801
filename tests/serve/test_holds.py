"""A live session belongs to one process of those that share a folder, which saves it, gives it up, or is killed."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirasol.media import read_clip
from mirasol.serve import engine as engine_module
from mirasol.serve.engine import Engine
from mirasol.serve.holds import Holds, _place
from mirasol.serve.limits import Limits
from mirasol.serve.queues import BusyError, HeldError, UnknownIdError

ID, OTHER = f"sess_{'0123456789abcdef' * 2}", f"sess_{'f' * 32}"
HOLDER = """
import sys
from pathlib import Path
from mirasol.serve.holds import Holds
holds = Holds(Path(sys.argv[1]))
print(holds.take(sys.argv[2]), flush=True)
for line in sys.stdin:
    holds.release(line.strip())
    print("released", flush=True)
"""


@pytest.fixture
def holder():
    """Starts another process that has a session; a line with an id makes it release that."""
    started = []

    def start(folder: Path, id: str) -> subprocess.Popen:
        words = [sys.executable, "-c", HOLDER, str(folder), id]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "True\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_another_process_has_a_session_until_it_releases_it_or_is_killed(holder, tmp_path):
    holds = Holds(tmp_path)
    process = holder(tmp_path, ID)
    assert not holds.take(ID) and holds.take(OTHER)
    holds.release(OTHER)
    print(ID, file=process.stdin, flush=True)
    assert process.stdout.readline() == "released\n" and holds.take(ID)
    holds.release(ID)
    process = holder(tmp_path, ID)
    assert not holds.take(ID)
    process.kill()
    process.wait()
    assert holds.take(ID), "a process that is killed holds nothing"
    holds.close()


def test_who_wants_a_session_is_known_until_it_has_it(holder, tmp_path):
    ours, theirs = Holds(tmp_path), Holds(tmp_path)
    assert not theirs.is_wanted(ID)
    ours.want(ID, True)
    assert theirs.is_wanted(ID) and not theirs.is_wanted(OTHER)
    assert ours.take(ID) and not theirs.is_wanted(ID)
    ours.want(ID, True)
    ours.want(ID, False)
    assert not theirs.is_wanted(ID)


@pytest.mark.parametrize("id", ["sess_", "../sess_", "sess_../../secret", f"{ID}/", f"{ID}0", "clip_0123"])
def test_an_id_that_is_none_reaches_no_file(shipped, tmp_path, id):
    engine = Engine(shipped, tmp_path)
    with pytest.raises(UnknownIdError):
        engine.resume(id)
    engine.close(0.0)


def test_a_session_that_another_process_does_not_give_up_is_refused_and_one_that_it_gives_up_is_resumed(
    shipped, tmp_path, holder, grid_root, monkeypatch
):
    monkeypatch.setattr(engine_module, "HAND_OVER_SECONDS", 0.0)
    engine = Engine(shipped, tmp_path)
    process = holder(engine.saved.folder, ID)
    with pytest.raises(HeldError, match="in another process"):
        engine.resume(ID)
    assert not engine.holds.is_wanted(ID)

    monkeypatch.setattr(engine_module, "HAND_OVER_SECONDS", 300.0)
    opened = engine.open({"start_time": 0.0})
    engine.push(opened, **first_pieces(grid_root / "clips" / "bbaf4p.mp4", 1)[0])
    live = engine.session(opened)

    def give_up():
        while not engine.holds.is_wanted(ID):
            time.sleep(0.01)
        engine.saved.put(live.save, {}, id=ID)  # what the other process would have saved
        print(ID, file=process.stdin, flush=True)

    giving = threading.Thread(target=give_up)
    giving.start()
    resumed = engine.resume(ID)
    giving.join()
    assert resumed.reached == live.reached > 0
    engine.close(0.0)


def test_an_open_session_is_saved_now_and_then_and_goes_on_from_there_when_media_are_sent_again(
    shipped, tmp_path, grid_root
):
    media = first_pieces(grid_root / "clips" / "bbaf4p.mp4", 6)
    whole, killed = Engine(shipped, tmp_path / "whole"), Engine(shipped, tmp_path, Limits(session_save_seconds=1e-9))
    ids = [each.open({"start_time": 0.0}) for each in (whole, killed)]
    for piece in media:
        whole.push(ids[0], **piece)
    for piece in media[:4]:
        killed.push(ids[1], **piece)
    while whole.step():
        pass
    while killed.step():
        pass
    assert killed.saved.get(ids[1]) is not None and not killed.session(ids[1]).has_unsaved
    saves, killed.saved.put = [], lambda *_, **__: saves.append(1)
    killed.step()
    assert not saves, "nothing has changed"

    second = Engine(shipped, tmp_path)  # the first one is never closed
    live = second.resume(ids[1])
    begin = live.session.seconds
    assert begin > 0
    for piece in media:
        if piece["start_time"] + 0.4 > begin:  # from the second that clients are told; some of it is there already
            second.push(ids[1], **piece)
    while second.step():
        pass
    expected, found = list(whole.session(ids[0]).session.results), list(live.session.results)
    assert [each.index for each in found] == [each.index for each in expected]
    assert [each.surprise for each in found[1:]] == pytest.approx([each.surprise for each in expected[1:]], abs=1e-3)
    for each in (whole, second):
        each.close(0.0)


def test_ids_that_begin_alike_have_locks_of_their_own():
    digits = "0123456789abcde"
    places = {_place(f"sess_{digits[:n]}{'f' * (32 - n)}") for n in range(15)}
    assert len(places) == 15 and max(places) < 2**62, "an offset of a file"


def test_a_session_that_is_refused_or_fails_leaves_no_lock(shipped, tmp_path, monkeypatch):
    engine = Engine(shipped, tmp_path, Limits(sessions=1))
    id = engine.open()
    with pytest.raises(BusyError):
        engine.open()
    assert engine.holds._held == {id}
    engine.session(id).session.waiting.append(object())
    monkeypatch.setattr(engine_module, "advance_together", lambda sessions: [([], ValueError("the model fails"))])
    engine.step()
    assert not engine.sessions and not engine.holds._held
    engine.close(0.0)
    engine.close(0.0)


def test_a_session_that_changes_all_the_time_is_saved_at_the_interval(shipped, tmp_path, monkeypatch):
    engine, saves = Engine(shipped, tmp_path, Limits(session_save_seconds=15.0)), []
    live = engine.session(engine.open())
    live.saved_at = 0.0
    monkeypatch.setattr(type(live), "has_unsaved", True)
    monkeypatch.setattr(engine.saved, "put", lambda *_, **__: saves.append(now))
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: now))
    for now in (14.9, 15.0, 15.1, 29.9, 30.0):  # noqa: B007
        engine.step()
    assert saves == [15.0, 30.0]
    monkeypatch.undo()
    engine.close(0.0)


def test_the_session_that_was_saved_longest_ago_is_saved_first(shipped, tmp_path, monkeypatch):
    engine, saves = Engine(shipped, tmp_path, Limits(session_save_seconds=15.0)), []
    lives = [engine.session(engine.open()) for _ in range(3)]
    for live, second in zip(lives, (4.0, 2.0, 3.0), strict=True):
        live.saved_at = second
    monkeypatch.setattr(type(lives[0]), "has_unsaved", True)
    monkeypatch.setattr(engine.saved, "put", lambda *_, id: saves.append(id))
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: 20.0))
    for _ in range(4):
        engine.step()
    assert saves == [lives[number].id for number in (1, 2, 0)]
    monkeypatch.undo()
    engine.close(0.0)


def first_pieces(file: Path, count: int) -> list[dict]:
    """Pieces of 0.4 s of a clip, as arguments of `Engine.push`."""
    read = read_clip(file)
    found = []
    for number in range(count):
        begin, end = 0.4 * number, 0.4 * (number + 1)
        shown = (read.frame_times >= begin - 1e-6) & (read.frame_times < end - 1e-6)
        samples = read.waveform[round(begin * read.sampling_rate) : round(end * read.sampling_rate)]
        found.append({
            "frames": [frame for frame, is_shown in zip(read.frames, shown, strict=True) if is_shown],
            "frame_times": read.frame_times[shown], "waveform": samples, "start_time": begin,
            "sampling_rate": read.sampling_rate,
        })  # fmt: skip
    return found
