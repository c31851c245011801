"""CIDEr and ROUGE-L of free text with several references, equal to the COCO caption evaluation (pycocoevalcap 1.2).

CIDEr is CIDEr-D, which clips counts and penalises other lengths; libraries call it CIDEr. Its weights come from the
references of all captions that are scored together, so it is a score of a split, not of a caption; a copy scores 10.
ROUGE-L weighs recall by 1.2, and takes the best precision and the best recall over the references. Words are those of
the Stanford tokenizer without punctuation, found by one regular expression instead of a Java program;
docs/decisions/0007-captions.md measures the difference.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

MAX_LENGTH = 4  # largest n of the n-grams
SIGMA = 6.0  # of the length penalty
BETA = 1.2
WORD = re.compile(
    r"""\d+(?:[.,:/]\d+)*(?:st|nd|rd|th|s)?\b   # numbers, times, dates: 1,200 10:30 2nd
    | \b(?:can(?=not\b)|gon(?=na\b)|wan(?=na\b)|got(?=ta\b))  # words that are two
    | \w+?(?=n't\b) | n't\b | '(?:s|re|ve|ll|d|m)\b           # do n't, dog 's
    | (?:[a-z]\.){2,} | \w+(?:[-&.]\w+)*                      # p.m., two-year-old
    | [^\w\s'"`.?!,:;()\[\]{}-]                               # other signs, such as % and $""",
    re.VERBOSE,
)


def words(caption: str) -> list[str]:
    """Return the words of a caption in lower case, without punctuation."""
    return WORD.findall(unicodedata.normalize("NFC", caption).lower().replace("’", "'"))


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """Return ROUGE-L of one caption, from 0 to 1."""
    given, known = words(caption), [words(reference) for reference in references]
    common = [longest_common(given, reference) for reference in known]
    recall = max((c / len(reference) for c, reference in zip(common, known, strict=True) if reference), default=0.0)
    precision = max(common, default=0) / len(given) if given else 0.0
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0  # length without this word and without the other
        for place, other in enumerate(second, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return CIDEr of each caption; the mean is that of the split. A single caption scores 0: no word is rare."""
    counted = [[ngrams(reference) for reference in several] for several in references]
    found_in = Counter(ngram for several in counted for ngram in {name for one in several for name in one})
    log_size = np.log(max(len(captions), 1))

    def weigh(counts: Counter) -> tuple[list[dict], np.ndarray, int]:
        parts: list[dict] = [{} for _ in range(MAX_LENGTH)]
        for ngram, count in counts.items():
            parts[len(ngram) - 1][ngram] = count * (log_size - np.log(max(1.0, found_in[ngram])))
        norms = np.array([np.sqrt(sum(value**2 for value in part.values())) for part in parts])
        return parts, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)

    scores = []
    for caption, several in zip(captions, counted, strict=True):
        mine, norm, length = weigh(ngrams(caption))
        total = 0.0
        for theirs, other_norm, other_length in map(weigh, several):
            penalty = np.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))
            for part, other, norms in zip(mine, theirs, norm * other_norm, strict=True):
                shared = [(value, other[ngram]) for ngram, value in part.items() if ngram in other]
                product = sum(min(pair) * pair[1] for pair in shared)
                total += penalty * (product / norms if norms else product)
        scores.append(10 * total / MAX_LENGTH / len(several))
    return scores


def ngrams(caption: str) -> Counter:
    """Return the counts of n-grams of up to four words."""
    text = words(caption)
    return Counter(tuple(text[i : i + n]) for n in range(1, MAX_LENGTH + 1) for i in range(len(text) - n + 1))
