"""WUPS is that of NExT-OE's own scorer: row by row on made-up answers, and on its published predictions."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from mirasol.tasks import Question, get_task
from mirasol.tasks.metrics.tagger import find_tagger
from mirasol.tasks.metrics.wordnet import find_wordnet
from mirasol.tasks.metrics.wups import Wups, wups

DATA = Path(__file__).parent.parent / "data"
# What eval_oe.py printed for nextqa_oe.csv and for the published predictions (threshold 0), by its columns.
COLUMNS = ("CW", "CH", "C", "TN", "TC", "T", "DB", "DC", "DL", "DO", "D")
MADE_UP = (46.70, 51.07, 49.03, 50.37, 47.31, 49.44, 48.08, 39.47, 58.37, 52.06, 49.36, 49.30)
PUBLISHED = (13.56, 18.14, 14.76, 11.53, 19.73, 14.90, 57.76, 38.02, 43.71, 44.95, 46.60, 21.48)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (DATA / "nextqa_oe.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scorer(wordnet, recorded) -> Wups:
    return Wups(wordnet, recorded)


def references(row: dict[str, str]) -> list[str]:
    return [row["answer"], row["second_answer"]] if row["second_answer"] else [row["answer"]]


def columns(metrics: dict[str, float]) -> tuple[float, ...]:
    return tuple(round(100 * metrics[name], 2) for name in (*(f"wups_0_{kind}" for kind in COLUMNS), "wups_0"))


def test_every_answer_has_the_official_words(rows, scorer):
    for row in rows:
        texts = [row["answer"], row["second_answer"], row["prediction"]]
        words = [row["answer_words"], row["second_words"], row["prediction_words"]]
        assert [scorer.content(text) for text in texts] == words


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_every_row_scores_as_the_official_one(rows, scorer, threshold):
    for row in rows:
        found = scorer.score(row["prediction"], references(row), row["kind"], threshold)
        assert found == float(row["wups_0" if threshold == 0 else "wups_0.9"]), row


def test_totals_are_those_the_official_script_prints(rows, scorer):
    predictions, kinds = [row["prediction"] for row in rows], [row["kind"] for row in rows]
    found = wups(predictions, [references(row) for row in rows], kinds, scorer)
    assert columns(found) == MADE_UP
    assert found["wups_0.9"] == pytest.approx(sum(float(row["wups_0.9"]) for row in rows) / len(rows))


def published(shared) -> tuple[list[str], list[list[str]], list[str]]:
    with gzip.open(shared / "data/annotations/nextqa_oe/val.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    path = shared / "data/predictions/nextqa_oe_HGA-same-att-qns23ans7-val.json.gz"
    given = json.loads(gzip.decompress(path.read_bytes()))
    predictions = [given[row["video"]][row["qid"]] for row in rows]
    return predictions, [[row["answer"]] for row in rows], [row["type"] for row in rows]


def test_published_predictions_get_their_published_wups(shared, scorer):
    assert columns(wups(*published(shared), scorer)) == PUBLISHED


def test_published_predictions_get_it_with_your_wordnet_and_tagger(shared):
    try:
        scorer = Wups(find_wordnet(), find_tagger())
    except ValueError as error:
        pytest.skip(f"needs WordNet and NLTK's tagger: {error}")
    assert columns(wups(*published(shared), scorer)) == PUBLISHED


def test_the_better_of_two_references_counts(scorer):
    assert scorer.score("dog", ["guitar"], "DO", 0.0) < scorer.score("dog", ["guitar", "dog"], "DO", 0.0) == 1.0
    assert [scorer.score("2", answers, "DC", 0.0) for answers in (["two"], ["two", "2"])] == [0.0, 1.0]


def test_exact_match_stands_beside_wups(scorer, monkeypatch):
    task = get_task("nextqa_oe")
    monkeypatch.setattr(task, "find_scorer", lambda: scorer)
    asked = [Question("1", "?", "dog", "DO", references=("guitar",)), Question("2", "?", "two", "DC")]
    found = task.score(asked, ["guitar", "two"])
    assert found["exact_match"] == 0.5 and found["exact_match_DO"] == 0.0 and found["exact_match_D"] == 0.5
    assert found["wups_0"] == found["wups_0_DO"] == found["wups_0.9_DC"] == 1.0 and task.headline == "wups_0"


def test_a_similarity_of_just_the_threshold_counts_whole():
    class Alike:
        def similarity(self, word, other):
            return 0.9

    scorer = Wups(Alike(), object())
    assert scorer._similarity("cat", "dog", 0.9) == 0.9 and scorer._similarity("cat", "dog", 0.91) == pytest.approx(
        0.09
    )
