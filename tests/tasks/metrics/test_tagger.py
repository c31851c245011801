"""The tagger reads NLTK's weights in both their forms, and from left to right."""

import json
import pickle
import zipfile

import pytest

from mirasol.tasks.metrics import tagger as module
from mirasol.tasks.metrics.tagger import JSON, PICKLE, Tagger, find_tagger

WEIGHTS = {
    "bias": {"NN": 0.5, "VB": 0.1},
    "i suffix ing": {"VB": 2.0},
    "i-1 tag VB": {"RB": 1.5},
    "i-2 tag VB": {"CD": 4.0},
    "i+1 word ball": {"JJ": 3.0},
    "i word !YEAR": {"CD": 2.0},
    "i word !DIGITS": {"CD": 2.0},
    "i word !HYPHEN": {"JJ": 2.0},
}
TAGS = {"the": "DT"}
CLASSES = {"NN", "VB", "RB", "JJ", "CD", "DT"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "nltk_folders", lambda: [tmp_path])
    (tmp_path / "taggers").mkdir()
    return tmp_path / "taggers"


def test_tags_follow_from_the_weights_by_hand():
    tags = Tagger(WEIGHTS, TAGS, CLASSES).tag
    assert tags(["singing", "loud", "loud"]) == ["VB", "RB", "CD"]  # a verb came before, and one before that
    assert tags(["loud", "the", "red", "ball"]) == ["NN", "DT", "JJ", "NN"]
    assert tags(["1999", "10", "t-shirt", "THE"]) == ["CD", "CD", "JJ", "NN"]  # known words as spelled only
    assert tags([]) == []


def test_equal_scores_take_the_last_tag_in_the_alphabet():
    assert Tagger({"bias": {"NN": 1.0, "VB": 1.0}}, {}, CLASSES).tag(["x"]) == ["VB"]


def test_both_forms_of_the_weights_give_the_same(folder):
    with pytest.raises(ValueError, match="Expected NLTK's English tagger .* found neither .*nltk.downloader"):
        find_tagger()
    (folder / PICKLE).mkdir()
    (folder / PICKLE / f"{PICKLE}.pickle").write_bytes(pickle.dumps((WEIGHTS, TAGS, CLASSES), protocol=2))
    old = find_tagger()
    with zipfile.ZipFile(folder / f"{JSON}.zip", "w") as archive:
        for part, value in (("weights", WEIGHTS), ("tagdict", TAGS), ("classes", sorted(CLASSES))):
            archive.writestr(f"{JSON}/{JSON}.{part}.json", json.dumps(value))
    new = find_tagger()
    assert new is not old and (new.weights, new.tags, new.classes) == (old.weights, old.tags, old.classes)


def test_a_pickle_that_would_run_code_is_refused(folder):
    (folder / PICKLE).mkdir()
    (folder / PICKLE / f"{PICKLE}.pickle").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="found os.system. Refused."):
        find_tagger()


def test_your_tagger_gives_the_recorded_tags(recorded):
    try:
        tagger = find_tagger()
    except ValueError as error:
        pytest.skip(f"needs NLTK's tagger: {error}")
    letters = {"NN": "n", "VB": "v", "JJ": "j", "RB": "r"}
    for text, tags in recorded.recorded.items():
        assert "".join(letters.get(tag[:2], "-") for tag in tagger.tag(text.split(" ") if text else [])) == tags, text
