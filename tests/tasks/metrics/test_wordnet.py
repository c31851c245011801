"""WordNet is read from its files wherever they lie, and compares words as NLTK 3.5 does."""

import shutil
import zipfile
from pathlib import Path

import pytest

from mirasol.tasks.metrics.wordnet import WordNet, find_wordnet

DATA = Path(__file__).parent.parent / "data"


@pytest.mark.parametrize(
    ("word", "other", "similarity"),
    [
        ("dog", "cat", 0.8571428571428571),  # also in NLTK's documentation
        ("dog", "dogs", 0.9285714285714286),  # the same sense: the longest way up counts, the shortest is walked
        ("chef", "fireman", 0.11764705882352941),  # deepest by the shortest way up: not the usual ancestor
        ("sit", "carry", 0.15384615384615385),  # a verb and a noun meet in the root added above verbs
        ("carry", "sit", 0.0),  # which is not there for a noun
        ("eat", "sit", 0.4),
        ("eat", "happy", 0.4),
        ("happy", "eat", 0.0),
        ("dog", "qwertyuiop", 0.0),
    ],
)
def test_similarity_is_that_of_nltk_3_5(wordnet, word, other, similarity):
    assert wordnet.similarity(word, other) == similarity


def test_base_forms_come_from_exceptions_and_endings(wordnet):
    assert [wordnet.base_forms("leaves", part) for part in ("noun", "verb")] == [["leaf", "leave"], ["leave"]]
    assert [wordnet.base_forms("men", part) for part in ("noun", "verb")] == [["men", "man"], []]
    assert "leaves" in wordnet and "qwertyuiop" not in wordnet


def test_wordnet_is_found_in_a_folder_of_nltk_zipped_or_not(tmp_path, monkeypatch, wordnet):
    monkeypatch.delenv("WORDNET_DICT", raising=False)
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    (tmp_path / "corpora").mkdir()
    shutil.copy(DATA / "wordnet.zip", tmp_path / "corpora" / "wordnet.zip")
    assert find_wordnet().index == wordnet.index
    zipfile.ZipFile(DATA / "wordnet.zip").extractall(tmp_path / "corpora")
    unpacked = find_wordnet()
    assert unpacked.index == wordnet.index and unpacked.similarity("dog", "cat") == wordnet.similarity("dog", "cat")


def test_missing_wordnet_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("WORDNET_DICT", str(tmp_path))
    with pytest.raises(
        ValueError, match=f"Expected the WordNet 3.0 database .* found none in {tmp_path}.*wordnet-base"
    ):
        find_wordnet()


def test_another_version_is_refused(tmp_path):
    zipfile.ZipFile(DATA / "wordnet.zip").extractall(tmp_path)
    path = tmp_path / "wordnet" / "data.noun"
    path.write_bytes(path.read_bytes().replace(b"WordNet 3.0", b"WordNet 3.1"))
    with pytest.raises(ValueError, match="Expected WordNet 3.0 in"):
        WordNet(tmp_path / "wordnet")
