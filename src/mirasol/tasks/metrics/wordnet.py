"""WordNet 3.0 read from its own database files: base forms, first senses and Wu-Palmer similarity.

Read directly and not through NLTK (docs/decisions/0005-nltk.md). NLTK's similarity changed between versions, and the
official WUPS numbers depend on version 3.5: a verb shares an added root above all verbs with words of other parts of
speech, while a noun, adjective or adverb has nothing in common with another part of speech. Newer versions give the
latter a small similarity too, which lowers the published 21.48 of NExT-OE's baseline to 20.38.
"""

import os
import zipfile
from functools import cache
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")  # search order for the first sense of a word
ENDINGS = {  # inflected ending:ending of the base form
    "noun": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "verb": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "adj": "er: est: er:e est:e",
    "adv": "",
}
RULES = {part: [tuple(rule.split(":")) for rule in rules.split()] for part, rules in ENDINGS.items()}
ROOT = ("root", 0)  # added above all verbs, which have no common root in WordNet
MISSING = (
    "Expected the WordNet 3.0 database (index.noun, data.noun, noun.exc, ...), found none in {}. Install Debian's or "
    "Ubuntu's package wordnet-base, or run `python -m nltk.downloader wordnet`, or set WORDNET_DICT to its folder."
)

Synset = tuple[str, int]  # part of speech and offset in its data file


def nltk_folders() -> list[Path]:
    """Return the folders of NLTK's data: NLTK_DATA, the home folder, and the system's folders."""
    named = [Path(folder) for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    shared = ("/usr/share/nltk_data", "/usr/local/share/nltk_data", "/usr/lib/nltk_data", "/usr/local/lib/nltk_data")
    return [*named, Path.home() / "nltk_data", *map(Path, shared)]


def find_wordnet() -> "WordNet":
    """Return WordNet from WORDNET_DICT, else from NLTK's data (a folder or a zip), else from /usr/share/wordnet."""
    named = os.environ.get("WORDNET_DICT")
    places: list[Path | zipfile.Path] = [Path(named)] if named else []
    if not named:
        for folder in nltk_folders():
            places.append(folder / "corpora" / "wordnet")
            if (archive := folder / "corpora" / "wordnet.zip").is_file():
                places.append(zipfile.Path(archive, "wordnet/"))
        places += [Path("/usr/share/wordnet"), Path("/usr/local/WordNet-3.0/dict")]
    for place in places:
        if (place / "data.noun").is_file():
            return _open(place)
    raise ValueError(MISSING.format(", ".join(map(str, places))))


@cache
def _open(place: Path | zipfile.Path) -> "WordNet":
    return WordNet(place)


class WordNet:
    """The database in one folder; lookups are cached, so that scoring thousands of answers takes seconds."""

    def __init__(self, folder: Path | zipfile.Path):
        self.index: dict[str, dict[str, bytes]] = {}
        self.exceptions: dict[str, dict[str, list[str]]] = {}
        self.data: dict[str, bytes] = {}
        for part in PARTS:
            lines = (folder / f"index.{part}").read_bytes().splitlines()
            self.index[part] = {line.split(b" ", 1)[0].decode(): line for line in lines if not line.startswith(b" ")}
            words = [line.split() for line in (folder / f"{part}.exc").read_text(encoding="utf-8").splitlines()]
            self.exceptions[part] = {form[0]: form[1:] for form in words if form}
            self.data[part] = (folder / f"data.{part}").read_bytes()
        version = self.data["noun"][:2000]
        if b"WordNet 3.0" not in version:
            raise ValueError(
                f"Expected WordNet 3.0 in {folder}, found a data.noun that does not name this version. "
                "The official WUPS numbers need 3.0; other versions order senses differently: point to 3.0."
            )
        # Caches of the object, not of the class, so that they end with the object.
        self.base_forms = cache(self._base_forms)
        self.first_synset = cache(self._first_synset)
        self.similarity = cache(self._similarity)
        self._hypernyms = cache(self._read_hypernyms)
        self._distances = cache(self._read_distances)
        self._depth = cache(self._find_depth)

    def __contains__(self, word: str) -> bool:
        """Return whether the word or one of its base forms has a sense."""
        return any(self.base_forms(word, part) for part in PARTS)

    def _base_forms(self, form: str, part: str) -> list[str]:
        """Return the entries that `form` may be a form of, itself first ("leaves" as a verb: leave)."""
        if form in self.exceptions[part]:
            return self._known([form, *self.exceptions[part][form]], part)
        stripped = self._strip([form], part)
        found = self._known([form, *stripped], part)
        while stripped and not found:
            stripped = self._strip(stripped, part)
            found = self._known(stripped, part)
        return found

    def _strip(self, forms: list[str], part: str) -> list[str]:
        return [form[: -len(ending)] + base for form in forms for ending, base in RULES[part] if form.endswith(ending)]

    def _known(self, forms: list[str], part: str) -> list[str]:
        return [form for form in dict.fromkeys(forms) if form in self.index[part]]

    def _synsets(self, entry: str, part: str) -> list[Synset]:
        fields = self.index[part][entry].split()
        return [(part, int(offset)) for offset in fields[-int(fields[2]) :]]

    def _first_synset(self, word: str) -> Synset | None:
        """Return the word's most common sense as a noun, else as a verb, adjective, adverb; None if it has none."""
        for part in PARTS:
            for entry in self.base_forms(word.lower(), part):
                return self._synsets(entry, part)[0]
        return None

    def _similarity(self, word: str, other: str) -> float:
        """Return Wu and Palmer's similarity of two words' first senses, 0 where nothing joins them.

        2 depth / (distance + depth + other's distance + depth), with the depth of the deepest common ancestor. Not
        symmetric: the root above all verbs is there only if `word` is a verb.
        """
        first, second = self.first_synset(word), self.first_synset(other)
        if first is None or second is None:
            return 0.0
        rooted = first[0] == "verb"
        distances, other_distances = self._distances(first, rooted), self._distances(second, rooted)
        common = [synset for synset in distances if synset in other_distances]
        if not common:
            return 0.0
        # The deepest by shortest path to the top; of several, `word` itself, else the first by name, as in NLTK.
        deepest = max(self._depth(synset, min) for synset in common)
        lowest = [synset for synset in common if self._depth(synset, min) == deepest]
        ancestor = first if first in lowest else min(lowest, key=self._name)
        depth = self._depth(ancestor, max) + 1
        above = self._distances(ancestor, rooted)
        both = [
            min(way[synset] + above[synset] for synset in above if synset in way)
            for way in (distances, other_distances)
        ]
        return 2.0 * depth / (sum(both) + 2 * depth)

    def _line(self, synset: Synset) -> list[str]:
        part, offset = synset
        data = self.data[part]
        return data[offset : data.index(b"\n", offset)].decode().split("|", 1)[0].split()

    def _read_hypernyms(self, synset: Synset) -> list[Synset]:
        """Return the hypernyms, including those of an instance ("Rome": "city")."""
        if synset == ROOT:
            return []
        fields = self._line(synset)
        pointers = 4 + 2 * int(fields[3], 16)  # after offset, file, type, count and (word, sense) pairs
        entries = [fields[i : i + 4] for i in range(pointers + 1, pointers + 1 + 4 * int(fields[pointers]), 4)]
        return [(synset[0], int(offset)) for symbol, offset, _, _ in entries if symbol in ("@", "@i")]

    def _read_distances(self, synset: Synset, rooted: bool) -> dict[Synset, int]:
        """Return all ancestors with the steps to each; the added root is one step above the farthest."""
        distances: dict[Synset, int] = {}
        queue = [(synset, 0)]
        for found, steps in queue:  # grows while it is walked
            if found not in distances:
                distances[found] = steps
                queue += [(above, steps + 1) for above in self._hypernyms(found)]
        if rooted and synset != ROOT:
            distances[ROOT] = max(distances.values()) + 1
        return distances

    def _find_depth(self, synset: Synset, least) -> int:
        """Return the steps to the top by the shortest (`min`) or the longest (`max`) path."""
        above = self._hypernyms(synset)
        return 1 + least(self._depth(one, least) for one in above) if above else 0

    def _name(self, synset: Synset) -> str:
        """Return NLTK's name of a synset, such as dog.n.01, which breaks ties."""
        if synset == ROOT:
            return "*ROOT*"
        fields = self._line(synset)
        lemma = fields[4].split("(")[0].lower()
        return f"{lemma}.{fields[2]}.{self._synsets(lemma, synset[0]).index(synset) + 1:02d}"
