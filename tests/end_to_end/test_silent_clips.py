"""A clip whose sound track holds nothing: every way to ask about it says so."""

import json
import warnings

from clips import write_clip

from mirasol.answer.answerer import Answerer
from mirasol.answer.ask import ask
from mirasol.answer.predict import predict
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.runner import evaluate_rows
from mirasol.serve.decode import Media, WatchOptions, decode
from mirasol.serve.limits import Limits
from mirasol.tasks import get_task

QUESTION, TOLD = "what is said?", "it is silent: no sample is above -70 dB"


def test_silence_is_told_by_every_way_to_ask(loaded, untrained, tmp_path):
    answerer = Answerer(*loaded, max_new_tokens=3)
    silent = write_clip(tmp_path / "silent.mp4", seconds=0.7, silent=True)
    write_clip(tmp_path / "heard.mp4", seconds=0.7)
    found = ask(silent, QUESTION, answerer=answerer)
    assert found.sound == "silent" and TOLD in found.warnings[0]
    assert "  sound       silent" in str(found)

    rows: list = []
    predict([str(tmp_path)], [QUESTION], untrained, write=rows.extend, workers=0, progress=False, max_new_tokens=3)
    assert [any(TOLD in text for text in row["warnings"]) for row in rows] == [False, True]

    lines = [{"media": name, "question": QUESTION, "answer": "yes"} for name in ("heard.mp4", "silent.mp4")]
    (tmp_path / "test.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    manifest = get_task("jsonl").load(tmp_path, "test")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = evaluate_rows(answerer, manifest, task="jsonl", workers=0, progress=False)
        assert any(TOLD in str(one.message) for one in caught)
    assert (result.metrics.clips.with_sound, result.metrics.clips.silent) == (2, 1)
    assert "1 of 2 clips with sound are silent" in str(result)
    assert [prediction.is_silent for prediction in result.predictions] == [False, True]
    made = evaluate_rows(answerer, manifest, Condition("silent"), task="jsonl", workers=0, progress=False)
    assert made.metrics.clips.with_warnings == 0, "silence that was asked for needs no warning"

    facts = decode(Media(video=silent), WatchOptions(), answerer.processor, Limits()).facts
    assert facts["audio"] == "silent" and TOLD in facts["warnings"][0]
