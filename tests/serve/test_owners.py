"""Files, clips and sessions belong to the API key that made them: to another key they do not exist."""

import json

import httpx2
import pytest
from websockets.sync.client import connect

from mirasol.serve.access import Keys
from mirasol.serve.app import create_app
from mirasol.serve.decode import Media, decode
from mirasol.serve.engine import Engine
from mirasol.serve.ids import belongs, new_id
from mirasol.serve.queues import UnknownIdError
from tests.serve.conftest import start
from tests.serve.live_client import QUESTION
from tests.serve.live_media import live_media

KEYS = {"alice": "key-of-alice-0123456789", "bob": "key-of-bob-0123456789ab"}
DECODED: list[Media] = []


def counted(media, *others):
    DECODED.append(media)
    return decode(media, *others)


@pytest.fixture(scope="module")
def guarded(shipped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("owners")
    (folder / "keys").write_text("".join(f"{name} {key}\n" for name, key in KEYS.items()))
    engine = Engine(shipped, folder, decode=counted)
    yield from start(engine, app=create_app(engine, keys=Keys.load(folder / "keys")))


@pytest.fixture(scope="module")
def http(guarded):
    """A client of each key."""
    made = {
        name: httpx2.Client(base_url=guarded.address, timeout=60, headers={"Authorization": f"Bearer {key}"})
        for name, key in KEYS.items()
    }
    yield made
    for client in made.values():
        client.close()


def ask(client, clip):
    return client.post(f"/v1/clips/{clip}/ask", json={"question": QUESTION})


def chat(client, clip):
    body = {"messages": [{"role": "user", "content": QUESTION}], "mirasol": {"clip": clip}}
    return client.post("/v1/chat/completions", json=body)


def test_a_clip_of_one_key_is_unknown_to_another_in_every_route(http, data_uri):
    clip = http["alice"].post("/v1/clips", json={"video": data_uri}).json()["id"]
    bob = http["bob"]
    unknown = ask(bob, new_id("clip", "bob"))
    for refused in (
        ask(bob, clip), chat(bob, clip), bob.get(f"/v1/clips/{clip}"), bob.delete(f"/v1/clips/{clip}"),
        bob.post("/v1/clips", json={"video": clip}),
    ):  # fmt: skip
        assert refused.status_code == unknown.status_code == 404
        assert refused.json()["error"]["code"] == unknown.json()["error"]["code"]
    assert ask(http["alice"], clip).json()["text"] == "blue"
    assert chat(http["alice"], clip).json()["mirasol"]["clip"] == clip


def test_the_same_bytes_are_another_clip_for_another_key_and_removing_one_leaves_the_other(http, data_uri):
    alice, bob = http["alice"], http["bob"]
    DECODED.clear()
    body = {"video": data_uri, "use_audio": False}
    ids = [client.post("/v1/clips", json=body).json()["id"] for client in (alice, bob)]
    again = bob.post("/v1/clips", json=body).json()["id"]
    assert len(set(ids)) == len(DECODED) == 2 and again == ids[1]  # watched at once would tell who else has the clip
    assert bob.delete(f"/v1/clips/{ids[1]}").status_code == 200
    assert ask(bob, ids[1]).status_code == 404 and ask(alice, ids[0]).status_code == 200


def test_removing_a_file_leaves_the_same_file_of_another_key(http, clip):
    alice, bob = http["alice"], http["bob"]
    ids = [client.post("/v1/files", files={"file": ("a.mp4", clip)}).json()["id"] for client in (alice, bob)]
    assert len(set(ids)) == 2
    watched = bob.post("/v1/clips", json={"video": ids[1]}).json()
    assert alice.post("/v1/clips", json={"video": ids[1]}).status_code == 404
    assert alice.delete(f"/v1/files/{ids[1]}").status_code == 404
    assert alice.delete(f"/v1/files/{ids[0]}").status_code == 200
    assert bob.get(f"/v1/files/{ids[1]}/content").content == clip
    assert watched["mirasol"]["files"] == {"video": ids[1]} and ask(bob, watched["id"]).status_code == 200


@pytest.mark.parametrize("is_open", [True, False])
def test_a_session_of_one_key_is_resumed_by_that_key_only(guarded, clip, is_open):
    def live(name, query=""):
        headers = {"Authorization": f"Bearer {KEYS[name]}"}
        made = connect(f"{guarded.address.replace('http', 'ws')}/v1/realtime{query}", additional_headers=headers)
        return made, json.loads(made.recv(timeout=60))

    first, created = live("alice")
    id = created["session"]["id"]
    first.send(json.dumps({"type": "input_audio_buffer.append", **live_media(clip).pieces()[0]}))
    first.send(json.dumps({"type": "session.update", "session": {}}))
    first.recv(timeout=60)
    if not is_open:
        first.close(4999)
        while id in guarded.engine.sessions:
            pass
    other, refused = live("bob", f"?session={id}")
    assert refused["error"]["code"] == "not_found"
    if is_open:  # and its connection was not taken over
        first.send(json.dumps({"type": "session.update", "session": {}}))
        assert json.loads(first.recv(timeout=60))["type"] == "session.updated"
    second, resumed = live("alice", f"?session={id}")
    assert resumed["session"]["mirasol"]["resumed"] is True
    for each in (first, other, second):
        each.close()


def test_an_id_belongs_to_its_owner_alone_also_when_keys_come_or_go():
    names = ("", "alice", "bob")
    for owner in names:
        id = new_id("clip", owner)
        assert [belongs(id, name) for name in names] == [name == owner for name in names]
    assert belongs("", "") and not belongs("clip_", "alice")  # no entry has such an id


def test_a_file_that_is_removed_while_its_clip_waits_is_unknown(shipped, tmp_path, clip):
    def removed(media, *others):
        media.video.unlink()
        return decode(Media(video=media.video.read_bytes()), *others)

    engine = Engine(shipped, tmp_path, decode=removed)
    file = tmp_path / "file_0"
    file.write_bytes(clip)
    with pytest.raises(UnknownIdError, match="id of a file.*'file_0'"):
        engine.watch(Media(video=file)).result(60)
    with pytest.raises(UnknownIdError, match="id of a file.*'file_0'"):
        engine.watch(Media(video=file))
    engine.close(0.0)
