"""Clips with a manifest of every kind of line, for the tests of shards."""

import json

import pytest
from clips import write_clip

LINES = [
    {"media": "a.mp4", "question": "what?", "answer": "a dog"},
    {"media": "b.wav", "questions": ["who?", "where?"], "answers": ["ann", ["out", "in"]], "id": "b", "kind": "p"},
    {"media": "a.mp4", "question": "how long?", "answer": "0.4", "metric": "number", "tolerance": 0.1},
    {"media": "c.mp4", "question": "which?", "answer": "x", "options": ["x", "y"], "segment": [0.1, 0.3]},
    {"media": "c.mp4", "question": "when?", "answer": "late", "seconds": [0.1, 0.2], "crop": [0.5, 0.4, 0.6]},
    {"media": "d.mp4", "question": "what?", "answer": "a cat"},
    {"media": "e.mp4", "question": "what?", "answer": "a cow"},
]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name in "acde":
        write_clip(folder / f"{name}.mp4", seconds=0.4, at=(0.1,), size=(96, 72))
    write_clip(folder / "b.wav", seconds=0.4, at=(0.2,))
    path = folder / "train.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    return path
