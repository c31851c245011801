"""The store keeps files whole, bounded, under ids that cannot be guessed, for several processes."""

import multiprocessing
import os
import threading
import time

import pytest

from mirasol.serve.store import LEFT_SECONDS, Store


def writing(data: bytes):
    return lambda path: path.write_bytes(data)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "kept", 1_000, "file")
    yield made
    made.close()


def test_an_entry_is_found_by_id_and_by_digest_also_after_a_restart(store):
    entry = store.put(writing(b"one"), {"name": "a"}, "digest")
    other = Store(store.folder, 1_000, "file")
    for found in (store.get(entry.id), store.find("digest"), other.get(entry.id), other.find("digest")):
        assert found == entry and found.path.read_bytes() == b"one" and found.facts == {"name": "a"}
    other.close()


def test_those_unused_for_longest_make_room(store):
    ids = [store.put(writing(bytes(300)), {}).id for _ in range(3)]
    store.get(ids[0])
    newest = store.put(writing(bytes(300)), {}).id
    assert [store.get(id) is not None for id in (*ids, newest)] == [True, False, True, True]
    assert store.num_bytes == 900 and len(list(store.folder.glob("file_*"))) == 3


def test_entries_are_those_with_all_these_facts_newest_first(store):
    ids = [store.put(writing(b"x"), {"owner": owner, "kind": kind}).id for owner, kind in ("ab", "xb", "ab", "ac")]
    assert [entry.id for entry in store.entries(owner="a")] == [ids[3], ids[2], ids[0]]
    assert [entry.id for entry in store.entries(owner="a", kind="b")] == [ids[2], ids[0]]


def test_a_touch_is_a_use(store):
    ids = [store.put(writing(bytes(300)), {}).id for _ in range(3)]
    assert store.touch(ids[0])
    store.put(writing(bytes(300)), {})
    assert [store.get(id) is not None for id in ids] == [True, False, True]


def test_room_is_never_made_by_removing_what_was_just_put(store, monkeypatch):
    older = store.put(writing(bytes(600)), {}).id
    monkeypatch.setattr("mirasol.serve.store.time.time", lambda: 0.0)  # a clock that was set back: it seems the oldest
    newest = store.put(writing(bytes(600)), {}).id
    assert store.get(newest) is not None and store.get(older) is None
    assert store.get(store.put(writing(bytes(2_000)), {}).id) is not None  # larger than the store


def test_of_two_with_one_digest_the_first_stays(store):
    first, second = store.put(writing(b"one"), {}, "same"), store.put(writing(b"two"), {}, "same")
    assert first.id == second.id and second.path.read_bytes() == b"one"
    assert len(list(store.folder.glob("file_*"))) == 1


def test_a_write_that_fails_leaves_nothing(store):
    def fail(path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.put(fail, {})
    assert store.entries() == [] and not [path for path in store.folder.iterdir() if "index" not in path.name]


def test_ids_have_128_random_bits(store):
    ids = {store.put(writing(b"x"), {}).id for _ in range(50)}
    assert len(ids) == 50 and all(len(id) == len("file_") + 32 for id in ids)
    values = [int(id.removeprefix("file_"), 16) for id in ids]
    ones = [sum(value >> bit & 1 for value in values) for bit in range(128)]
    assert all(5 < count < 45 for count in ones), "a bit that hardly changes can be guessed"


@pytest.mark.parametrize("id", ["../secret", "a/b", "", ".", "..", "file_\N{LATIN SMALL LETTER SHARP S}", "file_\0"])
def test_an_id_never_names_another_path(store, id):
    (store.folder.parent / "secret").write_bytes(b"secret")
    assert store.get(id) is None and not store.remove(id)


def test_threads_and_two_stores_on_one_folder_lose_nothing(store):
    other, ids = Store(store.folder, 1_000_000, "file"), []
    store.max_bytes = 1_000_000

    def fill(target):
        ids.extend(target.put(writing(b"data"), {}).id for _ in range(20))

    threads = [threading.Thread(target=fill, args=(target,)) for target in (store, other, store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 80 and all(store.get(id) and other.get(id) for id in ids)
    other.close()


def fill_and_read(folder, number, begin):
    """One of several processes: it writes 30 entries of 100 bytes, and what it reads is whole or gone."""
    begin.wait(60)
    store = Store(folder, 1_000, "file")
    for turn in range(30):
        entry = store.put(writing(bytes([number]) * 100), {"number": number}, f"digest{turn}")
        for found in (store.get(entry.id), store.find(f"digest{turn}")):
            try:
                data = None if found is None else found.path.read_bytes()
            except FileNotFoundError:
                data = None  # another process has made room
            assert data is None or data == bytes([found.facts["number"]]) * 100
    store.close()


@pytest.mark.slow
def test_processes_that_share_a_folder_keep_it_whole_bounded_and_in_accord(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    begin = spawn.Event()  # all of them open a folder that is not there yet
    processes = [spawn.Process(target=fill_and_read, args=(tmp_path / "kept", number, begin)) for number in range(4)]
    for process in processes:
        process.start()
    begin.set()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    store = Store(tmp_path / "kept", 1_000, "file")
    listed = {entry.id for entry in store.entries()}
    assert listed == {path.name for path in store.folder.glob("*file_*")}
    assert store.num_bytes == 1_000, "two processes that make room at once remove no more than one would"
    store.close()


def test_an_entry_that_is_replaced_is_there_whatever_is_killed(store, monkeypatch):
    first = store.put(writing(b"first"), {}, id="file_a")

    def killed(path, target):
        if path.name.endswith(".old") or target.name.endswith(".old"):
            return rename(path, target)
        raise KeyboardInterrupt  # after the old one is moved away, before the new one is in its place

    rename = type(first.path).rename
    monkeypatch.setattr(type(first.path), "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        store.put(writing(b"second"), {}, id="file_a")
    monkeypatch.undo()
    other = Store(store.folder, 1_000, "file")
    assert other.get("file_a").path.read_bytes() == b"first"
    assert store.put(writing(b"third"), {}, id="file_a").path.read_bytes() == b"third"
    assert [path.name for path in store.folder.glob("*file_*")] == ["file_a"]
    other.close()


def test_what_killed_processes_have_left_is_removed_when_it_is_old(store):
    kept = store.put(writing(b"kept"), {})
    names = {".file_a.0123abcd", "file_b", ".file_c.old"}  # half written, not listed yet, replaced
    for name in names:
        (store.folder / name).write_bytes(b"left")
    Store(store.folder, 1_000, "file").close()
    assert {path.name for path in store.folder.glob("*file_*")} == {*names, kept.id}, "they may be under way"
    for name in {*names, kept.id}:
        past = time.time() - LEFT_SECONDS - 60
        os.utime(store.folder / name, (past, past))
    Store(store.folder, 1_000, "file").close()
    assert {path.name for path in store.folder.glob("*file_*")} == {kept.id}


def test_an_entry_that_another_process_removed_is_not_touched(store):
    entry = store.put(writing(b"data"), {})
    assert store.touch(entry.id)
    other = Store(store.folder, 1_000, "file")
    other.remove(entry.id)
    other.close()
    assert not store.touch(entry.id), "the last use was less than a minute ago"
