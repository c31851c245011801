"""Accuracy is that of ActivityNet-QA's and NExT-QA's scripts, on made-up rows and on published predictions."""

import csv
import gzip
import json
import math
import re
from pathlib import Path

import pytest

from mirasol.tasks import Question, activitynet_qa, get_task
from mirasol.tasks.metrics.exact import accuracy, by_kind

DATA = Path(__file__).parent.parent / "data"


def asked(kinds, answers) -> list[Question]:
    return [Question(str(i), "?", a, kind) for i, (kind, a) in enumerate(zip(kinds, answers, strict=True))]


def printed(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_activitynet_qa_by_type_and_over_all_is_the_official():
    official = json.loads((DATA / "activitynet_qa.json").read_text())
    kinds, answers, predictions = zip(*official["rows"], strict=True)
    names = activitynet_qa.KINDS
    found = get_task("activitynet_qa").score(asked([names[kind] for kind in kinds], answers), predictions)
    shares = {names[kind]: right / official["asked"][kind] for kind, right in enumerate(official["correct"])}
    assert {kind: found[kind] for kind in shares} == shares
    assert found["exact_match"] == sum(official["correct"]) / 600 and found["num_questions"] == 600
    order = [*names[:3], "free", "exact_match", *names[3:]]  # of the script's lines
    assert [round(found[name], 4) for name in order] == printed(official["printed"])


def test_nextqa_multiple_choice_is_the_official():
    official = json.loads((DATA / "nextqa_mc.json").read_text())
    kinds, answers, predictions = zip(*official["rows"], strict=True)
    found = get_task("nextqa_mc").score(asked(kinds, map(str, answers)), [*map(str, predictions)])
    order = ["CW", "CH", "TN", "TC", "DC", "DL", "DO", "C", "T", "D", "exact_match"]
    assert [round(100 * found[name], 2) for name in order] == printed(official["printed"])


def test_published_predictions_for_nextqa_get_their_published_accuracy(shared):
    with gzip.open(shared / "data/annotations/nextqa_mc/val.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    path = shared / "data/predictions/nextqa_mc_HGA-bert-ft-h256-val.json.gz"
    given = json.loads(gzip.decompress(path.read_bytes()))
    predictions = [row[f"a{given[row['video'] + '_' + row['qid']]['prediction']}"] for row in rows]
    answers = [row[f"a{row['answer']}"] for row in rows]
    found = get_task("nextqa_mc").score(asked([row["type"] for row in rows], answers), predictions)
    assert [round(100 * found[name], 2) for name in ("exact_match", "C", "T", "D")] == [49.74, 46.26, 50.74, 59.33]


def test_groups_and_kinds_that_do_not_occur_are_left_out():
    assert by_kind([1, 0, 1], ["a", "b", "a"], {"both": ("a", "b"), "none": ("c",)}, "x_") == {
        "x_both": pytest.approx(2 / 3), "x_a": 1.0, "x_b": 0.0,
    }  # fmt: skip
    assert math.isnan(accuracy([], [])["exact_match"])
