"""The official Python client of OpenAI gets what it expects: chat, streaming, files, errors, live sessions."""

import base64
import io

import pytest

openai = pytest.importorskip("openai", reason="needs the package openai")

QUESTION = "which color is named?"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def messages(part, question=QUESTION):
    return [{"role": "user", "content": [part, {"type": "text", "text": question}]}]


def test_a_video_is_answered_with_our_extras(client, data_uri):
    answer = client.chat.completions.create(
        model="mirasol", messages=messages({"type": "video_url", "video_url": {"url": data_uri}}),
        extra_body={"mirasol": {"attribute": True}},
    )  # fmt: skip
    assert answer.choices[0].message.content == "blue" and answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    found = answer.mirasol
    assert found["video"] == found["audio"] == "used" and found["warnings"] == []
    assert len(found["surprise"]) == len(found["chunk_times"]) == 10 and found["surprise"][0] is None
    assert 0.9 < found["attributed_to"][0]["start"] < 1.7  # "blue" is said there


def test_pieces_of_a_streamed_answer_join_to_the_answer(client, data_uri):
    part = {"type": "input_video", "input_video": {"data": data_uri.partition(",")[2]}}
    whole = client.chat.completions.create(model="mirasol", messages=messages(part, "what is said?"))
    stream = client.chat.completions.create(
        model="mirasol", messages=messages(part, "what is said?"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == whole.choices[0].message.content == "bin blue at f four please"
    assert len(pieces) > 2
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-2].mirasol["clip"] == whole.mirasol["clip"]


def test_sound_alone_is_answered(client, grid_root, clip, tmp_path):
    from mirasol.media import read_clip

    sound = read_clip(clip, use_video=False).waveform
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1), out.setsampwidth(2), out.setframerate(16_000)
        out.writeframes((sound * 32767).astype("<i2").tobytes())
    part = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"},
    }
    answer = client.chat.completions.create(model="mirasol", messages=messages(part))
    assert answer.choices[0].message.content == "blue"
    assert answer.mirasol["video"] == "not used" and answer.mirasol["audio"] == "used"
    assert all(answer.mirasol["has_audio"]) and not any(answer.mirasol["has_video"])


def test_a_file_is_kept_asked_given_back_and_removed(client, clip):
    kept = client.files.create(file=("clip.mp4", clip, "video/mp4"), purpose="user_data")
    assert (kept.bytes, kept.filename) == (len(clip), "clip.mp4")
    part = {"type": "file", "file": {"file_id": kept.id}}
    assert (
        client.chat.completions.create(model="mirasol", messages=messages(part)).choices[0].message.content == "blue"
    )
    assert client.files.content(kept.id).read() == clip
    assert client.files.retrieve(kept.id).id == kept.id
    assert client.files.delete(kept.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(kept.id)


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["mirasol"]
    assert client.models.retrieve("mirasol").id == "mirasol"


@pytest.mark.parametrize("body, status, said", [
    ({"model": "gpt-4o"}, 404, "gpt-4o"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "hello"}]}, 400, "video_url"),
    ({"n": 2}, 400, "n to be 1"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "file:///etc/passwd"}}]}]},
     400, "data: URI"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "which color is named?"},
        {"type": "video_url", "video_url": {"url": "http://127.0.0.1/x"}}]}]},
     400, "fetches nothing"),
])  # fmt: skip
def test_a_wrong_request_is_refused_with_a_message(client, data_uri, body, status, said):
    right = {"model": "mirasol", "messages": messages({"type": "video_url", "video_url": {"url": data_uri}})}
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**{**right, **body})
    assert caught.value.status_code == status and said in caught.value.message
    assert set(caught.value.body) == {"message", "type", "param", "code"}
