"""`/v1/chat/completions`: a conversation with media -> an answer, whole or as server-sent events."""

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from mirasol.serve.batches import Reply
from mirasol.serve.clips import WatchedClip
from mirasol.serve.errors import AsciiResponse, as_api_error, invalid, validated, wrong
from mirasol.serve.parts import Asked, Reference, add_media, read_messages, read_reference
from mirasol.serve.service import client_of, in_thread_if_large, json_object, service_of, stream_reply

router = APIRouter()
Tokens = Annotated[int, Field(ge=1, le=100_000)]
READ = ("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "mirasol", "n", "user",
        "use_audio_in_video", "mm_processor_kwargs", "videos", "audios", "metadata", "store", "seed")  # fmt: skip
NEUTRAL: dict[str, tuple] = {  # values that need no warning, because they ask for what happens anyway
    "temperature": (0,),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "tools": (),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx buffers events otherwise


class Extras(BaseModel):
    """Extra fields of a request, under `mirasol`."""

    model_config = ConfigDict(extra="forbid")

    clip: str | None = None
    use_video: StrictBool | None = None
    use_audio: StrictBool | None = None
    attribute: StrictBool = False
    options: list[str] | None = None


class ChatRequest(BaseModel):
    """Fields of a chat request that have an effect."""

    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: StrictBool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: int | None = None
    use_audio_in_video: StrictBool | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    videos: list[str] = []
    audios: list[str] = []
    mirasol: Extras | None = None


@router.post("/v1/chat/completions", response_model=None)
async def chat(request: Request) -> Response:
    """Answer the last question of a conversation about its media."""
    service, client = service_of(request), client_of(request)
    body = await json_object(request)
    asked, chat, use_audio = await in_thread_if_large(len(await request.body()), read_chat, body)
    service.check_model(chat.model)
    extras = chat.mirasol or Extras()
    if extras.clip is None:
        service.engine.prompts(asked.question, extras.options)  # a refusal comes before the clip is decoded
    clip = await service.watch(asked.media, extras.use_video, use_audio, client)
    chosen = {
        "options": extras.options,
        "max_new_tokens": chat.max_completion_tokens or chat.max_tokens,
        "attribute": extras.attribute,
    }
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": service.model}
    if chat.stream:
        wants_usage = bool((chat.stream_options or {}).get("include_usage"))
        events = stream_reply(service.engine, clip, asked.question, client=client.name, **chosen)
        lines = _lines(events, head, clip, asked, wants_usage)
        return StreamingResponse(lines, media_type="text/event-stream", headers=UNBUFFERED)
    reply = await service.ask(request, clip, asked.question, **chosen)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text, "refusal": None},
        "finish_reason": "length" if reply.is_cut else "stop",
        "logprobs": None,
    }
    answer = {**head, "object": "chat.completion", "choices": [choice], "usage": usage(reply)}
    return AsciiResponse({**answer, "mirasol": about(clip, reply, asked.warnings)})


def read_chat(body: dict[str, Any]) -> tuple[Asked, ChatRequest, bool | None]:
    """Return the question with its media, the checked request, and whether the audio is wanted."""
    chat = validated(ChatRequest, body)
    if chat.n not in (None, 1):
        raise wrong("n", "1, because answers are greedy", chat.n, "Leave it out")
    for name in ("tools", "functions"):
        if body.get(name):
            raise wrong(name, "absent, because the model calls no functions", body[name], "Leave it out")
    asked = read_messages(chat.messages)
    for kind, values in (("video", chat.videos), ("audio", chat.audios)):
        for value in values:
            add_media(asked, kind, read_reference(value, f"{kind}s"))
    if chat.mirasol is not None and chat.mirasol.clip is not None:
        if asked.media:
            asked.warnings.append(f"The {', '.join(asked.media)} in the messages is not used: mirasol.clip is.")
        asked.media = {"video": Reference(id=chat.mirasol.clip)}
    for name, value in body.items():
        if name not in READ and value not in (None, [], {}) and value not in NEUTRAL.get(name, ()):
            asked.warnings.append(f"{name} is not used: answers are greedy, and the server sets frame rates.")
    return asked, chat, _use_audio(chat, asked)


def _use_audio(chat: ChatRequest, asked: Asked) -> bool | None:
    """Return whether the audio of the video is wanted, from every field in which clients send it."""
    processor: dict[str, Any] = chat.mm_processor_kwargs or {}
    asked.warnings += [f"mm_processor_kwargs.{name} is not used." for name in processor if name not in READ]
    places = {
        "use_audio_in_video": chat.use_audio_in_video,
        "mm_processor_kwargs.use_audio_in_video": processor.get("use_audio_in_video"),
        "mirasol.use_audio": None if chat.mirasol is None else chat.mirasol.use_audio,
    }
    sent = {name: value for name, value in places.items() if value is not None}
    for name, value in sent.items():
        if not isinstance(value, bool):
            raise wrong(name, "true or false", value, "Correct it")
    if len(set(sent.values())) > 1:
        raise invalid(f"Expected one choice about the audio, found {sent}. Send one of them.")
    wanted = next(iter(sent.values()), None)
    if wanted is False and "audio" in asked.media and "mirasol.use_audio" not in sent:
        return None  # the switch is about the audio of the video; an audio part beside it is used
    return wanted


async def _lines(
    events: AsyncIterator[str | Reply], head: dict[str, Any], clip: WatchedClip, asked: Asked, wants_usage: bool
) -> AsyncIterator[str]:
    """Yield server-sent events: the role, pieces of text, the end with `mirasol`, and the usage if wanted."""
    head = {**head, "object": "chat.completion.chunk"}

    def line(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        empty = {"usage": None} if wants_usage else {}
        return f"data: {json.dumps({**head, 'choices': [choice], **empty, **more})}\n\n"

    yield line({"role": "assistant", "content": ""})
    try:
        text = ""
        async for event in events:
            if isinstance(event, str):
                text += event
                yield line({"content": event})
                continue
            if event.text != text:  # the chosen option of a ranking is not streamed
                yield line({"content": event.text.removeprefix(text)})
            end = "length" if event.is_cut else "stop"
            yield line({}, end, mirasol=about(clip, event, asked.warnings))
            if wants_usage:
                yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage(event)})}\n\n"
    except Exception as error:
        yield f"data: {json.dumps({'error': as_api_error(error).body})}\n\n"
    yield "data: [DONE]\n\n"


def usage(reply: Reply) -> dict[str, int]:
    """Return the numbers of text tokens in question and answer."""
    total = reply.num_prompt_tokens + reply.num_tokens
    return {"prompt_tokens": reply.num_prompt_tokens, "completion_tokens": reply.num_tokens, "total_tokens": total}


def about(clip: WatchedClip, reply: Reply, warnings: list[str]) -> dict[str, Any]:
    """Return the value of `mirasol`: clip, media used, confidence and attribution."""
    found = reply.as_dict()
    names = ("confidence", "seen", "attributed_to", "log_probabilities")
    facts = {**clip.facts, "warnings": [*warnings, *reply.warnings, *clip.facts["warnings"]]}
    return {"clip": clip.id, **{name: found[name] for name in names}, **facts}
