"""Parts of speech by NLTK's English tagger, with the weights in the user's NLTK data.

The tagger is an averaged perceptron (Honnibal 2013): it adds the weights of 14 features of the word, its neighbours
and the two tags before. NLTK moved the weights from a pickle to JSON between versions; both hold the same numbers, and
both are read here without NLTK. A pickle may hold only dictionaries, lists, text and numbers, so a forged file cannot
run code.
"""

import json
import pickle
import zipfile
from functools import cache
from pathlib import Path

from mirasol.tasks.metrics.wordnet import nltk_folders

PICKLE = "averaged_perceptron_tagger"
JSON = "averaged_perceptron_tagger_eng"
MISSING = (
    "Expected NLTK's English tagger ({} or {}), found neither under {}. The official WUPS takes each word's part of "
    "speech from it: run `python -m nltk.downloader averaged_perceptron_tagger_eng`, or set NLTK_DATA to the folder "
    "that holds taggers/."
)


def find_tagger() -> "Tagger":
    """Return the tagger from the first of NLTK's data folders that has it, as JSON or as a pickle, zipped or not."""
    folders = nltk_folders()
    for folder in folders:
        for name, first in ((JSON, f"{JSON}.weights.json"), (PICKLE, f"{PICKLE}.pickle")):
            archive = folder / "taggers" / f"{name}.zip"
            places: list[Path | zipfile.Path] = [folder / "taggers" / name]
            places += [zipfile.Path(archive, f"{name}/")] if archive.is_file() else []
            for place in places:
                if (place / first).is_file():
                    return _open(place)
    raise ValueError(MISSING.format(JSON, PICKLE, ", ".join(f"{folder}/taggers" for folder in folders)))


@cache
def _open(place: Path | zipfile.Path) -> "Tagger":
    if place.name.startswith(JSON):
        parts = [
            json.loads((place / f"{JSON}.{part}.json").read_bytes()) for part in ("weights", "tagdict", "classes")
        ]
    else:
        with (place / f"{PICKLE}.pickle").open("rb") as file:
            parts = _Plain(file).load()
    return Tagger(*parts)


class _Plain(pickle.Unpickler):
    """Allows only the class `set`, which holds the tags; all other values in the file need no class."""

    def find_class(self, module: str, name: str):
        if module in ("builtins", "__builtin__") and name == "set":  # the latter as Python 2 wrote it
            return set
        raise ValueError(f"Expected plain numbers and text in the tagger's pickle, found {module}.{name}. Refused.")


class Tagger:
    """Tagger with Penn Treebank tags, greedy from left to right."""

    def __init__(self, weights: dict[str, dict[str, float]], tags: dict[str, str], classes):
        self.weights, self.tags, self.classes = weights, tags, sorted(classes)

    def tag(self, words: list[str]) -> list[str]:
        """Return one tag per word; words with a single possible tag are looked up, case-sensitively."""
        known = ["-START-", "-START2-", *map(_normalise, words), "-END-", "-END2-"]
        last, before = "-START-", "-START2-"
        tags = []
        for i, word in enumerate(words):
            tag = self.tags.get(word) or self._best(_features(word, known[i : i + 5], last, before))
            tags.append(tag)
            before, last = last, tag
        return tags

    def _best(self, features: list[str]) -> str:
        scores = dict.fromkeys(self.classes, 0.0)
        for feature in features:
            for tag, weight in self.weights.get(feature, {}).items():
                scores[tag] += weight
        return max(self.classes, key=lambda tag: (scores[tag], tag))


def _normalise(word: str) -> str:
    if "-" in word and word[0] != "-":
        return "!HYPHEN"
    if word.isdigit() and len(word) == 4:
        return "!YEAR"
    return "!DIGITS" if word[0].isdigit() else word.lower()


def _features(word: str, around: list[str], last: str, before: str) -> list[str]:
    """Return the features of a word; `around` are the five normalised words with this one in the middle."""
    two_left, left, own, right, two_right = around
    return [
        "bias",
        f"i suffix {word[-3:]}",
        f"i pref1 {word[0]}",
        f"i-1 tag {last}",
        f"i-2 tag {before}",
        f"i tag+i-2 tag {last} {before}",
        f"i word {own}",
        f"i-1 tag+i word {last} {own}",
        f"i-1 word {left}",
        f"i-1 suffix {left[-3:]}",
        f"i-2 word {two_left}",
        f"i+1 word {right}",
        f"i+1 suffix {right[-3:]}",
        f"i+2 word {two_right}",
    ]
