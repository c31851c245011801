"""WUPS of open-ended answers, equal to doc-doc/NExT-OE's eval_oe.py (commit a83f8f5).

Both answers are reduced to base forms without stop words. Each word of one answer has the similarity of its most
similar word in the other (Wu-Palmer of their first senses; below the threshold, times 0.1). The product over the words
is taken both ways, and the smaller product counts. For counting (DC) and yes/no (DB), the reduced answers must be
equal instead. If there is a second reference (half of the test split), the better score counts.

Quirks of the script that are kept: words that are similar to no word are skipped instead of making the product zero,
so "dog" for "dog zzz" scores 1; an answer without words after the stop words are removed scores 0 for open questions,
but 1 for counting and yes/no if the reference has none either ("yes" and "no" are no stop words here); the script
computes `wups_0.9` but prints only threshold 0.
"""

import math
from collections.abc import Sequence
from functools import cache

from mirasol.tasks.metrics.exact import by_kind, mean
from mirasol.tasks.metrics.lemmas import lemmas, tokenise
from mirasol.tasks.metrics.tagger import Tagger, find_tagger
from mirasol.tasks.metrics.wordnet import WordNet, find_wordnet

# NExT-OE's stopwords.txt: NLTK's English list without words that can be answers (no, not, in, out, up, down, on, ...).
_LIST = (
    "i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he him his "
    "himself she she's her hers herself it it's its itself they them their theirs themselves what which who whom this "
    "that that'll these those am is are was were be been being have has had having do does did doing a an the and but "
    "if or because as until while to from of at for with about into through during again further then here there when "
    "where why how all any each most other some such only own so than too very s t can will just don don't should "
    "should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn doesn't hadn hadn't hasn hasn't "
    "haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan shan't shouldn shouldn't wasn wasn't "
    "weren weren't won won't wouldn wouldn't"
)
STOP_WORDS = frozenset(_LIST.split())
EXACT = ("DB", "DC")  # yes/no and counting
GROUPS = {"C": ("CW", "CH"), "T": ("TN", "TC"), "D": ("DB", "DC", "DL", "DO")}
MERGED = {"TP": "TN"}  # "what happened before" counts as "what happened after"


class Wups:
    """Scorer with one WordNet and one tagger; it caches answers and word pairs."""

    def __init__(self, wordnet: WordNet | None = None, tagger: Tagger | None = None):
        self.wordnet, self.tagger = wordnet or find_wordnet(), tagger or find_tagger()
        self.content = cache(self._content)

    def _content(self, answer: str) -> str:
        """Return the answer's base forms without stop words, joined by spaces."""
        return " ".join(word for word in lemmas(answer, self.wordnet, self.tagger) if word not in STOP_WORDS)

    def score(self, prediction: str, answers: Sequence[str], kind: str, threshold: float) -> float:
        """Return the best score of a prediction over the reference answers, 0 to 1."""
        given, expected = self.content(prediction), [self.content(answer) for answer in answers]
        if kind in EXACT:
            return float(given in expected)
        return max(self._both_ways(tokenise(given), tokenise(one), threshold) for one in expected)

    def _both_ways(self, words: list[str], others: list[str], threshold: float) -> float:
        return min(self._product(words, others, threshold), self._product(others, words, threshold))

    def _product(self, words: list[str], others: list[str], threshold: float) -> float:
        found = [max((self._similarity(word, other, threshold) for other in others), default=0.0) for word in words]
        found = [similarity for similarity in found if similarity > 0]
        return math.prod(found) if found else 0.0

    def _similarity(self, word: str, other: str, threshold: float) -> float:
        if word == other:
            return 1.0
        similarity = self.wordnet.similarity(word, other)
        return similarity if similarity >= threshold else 0.1 * similarity


def wups(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], kinds: Sequence[str], scorer: Wups | None = None
) -> dict[str, float]:
    """Return WUPS over all questions, by group (C causal, T temporal, D descriptive) and by kind.

    `answers` are the one or two references of each question; `kinds` are NExT-OE's (CW CH TN TP TC DB DC DL DO).
    """
    scorer = scorer or Wups()
    kinds = [MERGED.get(kind, kind) for kind in kinds]
    metrics: dict[str, float] = {}
    for threshold, name in ((0.0, "wups_0"), (0.9, "wups_0.9")):
        scores = [
            scorer.score(prediction, references, kind, threshold)
            for prediction, references, kind in zip(predictions, answers, kinds, strict=True)
        ]
        metrics |= {name: mean(scores)} | by_kind(scores, kinds, GROUPS, f"{name}_")
    return metrics
