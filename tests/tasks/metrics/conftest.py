"""WordNet's part and the recorded parts of speech that the tests of WUPS need: see ../data/README.md."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest

from mirasol.tasks.metrics.wordnet import WordNet

DATA = Path(__file__).parent.parent / "data"
TAGS = {"n": "NN", "v": "VB", "j": "JJ", "r": "RB", "-": "IN"}


class RecordedTagger:
    """Gives the tags that NLTK 3.5 gave."""

    def __init__(self):
        self.recorded = json.loads(gzip.decompress((DATA / "tags.json.gz").read_bytes()))

    def tag(self, words: list[str]) -> list[str]:
        return [TAGS[letter] for letter in self.recorded[" ".join(words)]]


@pytest.fixture(scope="session")
def recorded() -> RecordedTagger:
    return RecordedTagger()


@pytest.fixture(scope="session")
def wordnet() -> WordNet:
    return WordNet(zipfile.Path(DATA / "wordnet.zip", "wordnet/"))
