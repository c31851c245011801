"""Parts of a chat: every form in which the common servers send a clip gives the same inputs; the rest is refused."""

import base64

import numpy as np
import pytest
import torch
from clips import write_clip

from mirasol.chunks.chat import media_of

QUESTION = "what is said?"


def chat(*parts: dict, text: dict | None = None) -> list[dict]:
    text = {"type": "text", "text": QUESTION} if text is None else text
    return [{"role": "system", "content": None}, {"role": "user", "content": [*parts, text]}]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("chat") / "a clip.mp4", seconds=0.5, size=(38, 34))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("chat") / "sound.wav", seconds=0.5)


def assert_equal_inputs(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


VIDEO_PARTS = {
    "transformers, path": lambda path, data: {"type": "video", "path": str(path)},
    "transformers, url": lambda path, data: {"type": "video", "url": str(path)},
    "transformers, base64": lambda path, data: {"type": "video", "base64": b64(data)},
    "transformers, bytes": lambda path, data: {"type": "video", "video": data},
    "file URI": lambda path, data: {"type": "video_url", "video_url": {"url": path.as_uri()}},
    "vLLM": lambda path, data: {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{b64(data)}"}},
    "vLLM, short": lambda path, data: {"type": "video_url", "video_url": str(path)},
    "llama.cpp": lambda path, data: {"type": "input_video", "input_video": {"data": b64(data)}},
    "llama.cpp, url": lambda path, data: {"type": "input_video", "input_video": {"url": str(path)}},
    "OpenAI file": lambda path, data: {"type": "file", "file": {"file_data": b64(data), "filename": "a.mp4"}},
    "OpenAI file, URI": lambda path, data: {
        "type": "input_file",
        "file_data": f"data:video/mp4;base64,{b64(data)}",
        "filename": "a.mp4",
    },
}
AUDIO_PARTS = {
    "transformers": lambda path, data: {"type": "audio", "path": str(path)},
    "OpenAI": lambda path, data: {"type": "input_audio", "input_audio": {"data": b64(data), "format": "wav"}},
    "vLLM": lambda path, data: {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{b64(data)}"}},
}


@pytest.mark.parametrize("form", VIDEO_PARTS)
def test_every_form_of_a_video_is_that_video(processor, video, form):
    part = VIDEO_PARTS[form](video, video.read_bytes())
    inputs = processor.apply_chat_template(chat(part), tokenize=True)
    assert_equal_inputs(inputs, processor(text=QUESTION, videos=video))


@pytest.mark.parametrize("form", AUDIO_PARTS)
def test_every_form_of_a_sound_is_that_sound(processor, sound, form):
    part = AUDIO_PARTS[form](sound, sound.read_bytes())
    inputs = processor.apply_chat_template(chat(part), tokenize=True)
    assert_equal_inputs(inputs, processor(text=QUESTION, audio=sound))


def test_a_picture_is_a_clip_of_one_frame(processor):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(256, size=(17, 19, 3), dtype=np.uint8)
    expected = processor(text=QUESTION, videos=pixels[None], frame_rate=processor.frames_per_second)
    for picture in (pixels, Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA")):
        assert_equal_inputs(processor(text=QUESTION, images=picture), expected)
        inputs = processor.apply_chat_template(chat({"type": "image", "image": picture}), tokenize=True)
        assert_equal_inputs(inputs, expected)
    batch = processor(text=QUESTION, images=[[pixels], [pixels[::-1]]])
    assert torch.equal(batch["pixel_values_videos"][:1], expected["pixel_values_videos"])
    assert batch["video_chunk_mask"].tolist() == [[True], [True]]


def test_text_of_the_responses_interface_is_the_question(processor, video):
    messages = chat({"type": "video", "path": str(video)}, text={"type": "input_text", "text": QUESTION})
    assert processor.apply_chat_template(messages) == processor.apply_chat_template(chat())


def test_video_and_sound_of_one_chat_are_one_clip(processor, video, sound):
    parts = {"type": "video", "path": str(video)}, {"type": "audio", "path": str(sound)}
    with pytest.warns(UserWarning, match="the given audio replaces it"):
        inputs = processor.apply_chat_template(chat(*parts), tokenize=True)
    with pytest.warns(UserWarning, match="the given audio replaces it"):
        assert_equal_inputs(inputs, processor(text=QUESTION, videos=video, audio=sound))


def test_only_the_last_video_is_watched_and_that_is_said():
    parts = {"type": "video", "path": "a.mp4"}, {"type": "video", "path": "b.mp4"}
    with pytest.warns(UserWarning, match="about one video, but this one holds 2: only the last is used"):
        assert media_of(chat(*parts))["video"] == "b.mp4"


@pytest.mark.parametrize("later", ["audio", "image", "video"])
def test_a_later_message_with_media_is_another_clip(later):
    """The sound of one clip must not be joined with the picture of an earlier one, as every client repeats it."""
    first, second = chat({"type": "video", "path": "a.mp4"}), chat({"type": later, "path": "b"})
    with pytest.warns(UserWarning, match="earlier messages are not used"):
        assert media_of([*first, *second]) == {"video": None, "audio": None, "image": None} | {later: "b"}
    assert media_of([*first, {"role": "user", "content": "and now?"}])["video"] == "a.mp4"


@pytest.mark.parametrize("name", ["12:30.mp4", "data:x.mp4", "-x.mp4", "h\u00e4 \u20ac.mp4", "http:x.mp4"])
def test_names_with_a_colon_are_paths(name):
    assert media_of(chat({"type": "video", "path": name}))["video"] == name


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "video", "url": "https://host/a.mp4"}, "fetches nothing from the network: download the file"),
        ({"type": "video_url", "video_url": {"url": "HTTP://host/a.mp4"}}, "but it is 'HTTP://host/a.mp4'"),
        ({"type": "audio_url", "audio_url": "s3://bucket/a.wav"}, "'audio_url' must be a path, a file: or data: URI"),
        ({"type": "input_image", "image_url": "ftp://host/a.png"}, "'input_image' must be a path"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "'file' must hold its media .* but it holds 'file_id'"),
        ({"type": "video"}, "'video' must hold its media under 'video' or .* but it holds 'type'"),
        ({"type": "input_audio", "input_audio": {"data": "no base64!"}}, "must hold base64, but its 10 characters"),
        ({"type": "pdf", "path": "a.pdf"}, "must be of type text, .*input_audio.*, but one is of type 'pdf'"),
        ({"type": "tool_result"}, "one is of type 'tool_result'"),
    ],
)
def test_what_cannot_be_watched_is_refused_by_name(processor, part, message):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(chat(part), tokenize=True)


def test_a_video_and_a_picture_are_refused(processor, video):
    parts = {"type": "video", "path": str(video)}, {"type": "image", "path": str(video)}
    with pytest.raises(ValueError, match="a video or an image in a message, but found both"):
        processor.apply_chat_template(chat(*parts), tokenize=True)
