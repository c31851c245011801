"""Base forms of the words of an answer, as NExT-OE's scorer makes them (its `remove_stop`, through pywsd 1.2.4).

The answer is split into Penn Treebank tokens, and NLTK's tagger gives each token's part of speech in context. The
result is WordNet's base form for that part (the shortest of several); if WordNet does not know it, the stem if WordNet
knows the stem, else the token in lower case. A token that is neither noun, verb, adjective nor adverb is tagged again
alone, and counts as a noun if that gives none of the four either.

The official script splits sentences by Punkt, a trained model of 20,000 words. Here a full stop before a space ends a
sentence, except after an ellipsis, an abbreviation, a single letter, or a number without a capital after it. The two
differ only in answers of several sentences of which one ends in an abbreviation or a letter.
"""

import re
from collections.abc import Iterator

from mirasol.tasks.metrics.porter import stem
from mirasol.tasks.metrics.tagger import Tagger
from mirasol.tasks.metrics.wordnet import WordNet

PARTS = {"NN": "noun", "VB": "verb", "JJ": "adj", "RB": "adv"}
_LIST = "a.m co corp dr inc jan feb mar apr aug sept oct nov dec jr lt ltd maj mr mrs ms p.m prof sen sgt sr st u.s vs"
ABBREVIATIONS = frozenset(_LIST.split())
# The script tokenises twice: answers by pywsd's rules, then the joined lemmas by NLTK's, which differ slightly.
PYWSD = {"ellipsis": r"\.\.\.", "alone": r"[;@#$%&?!]", "clitic": r"(?!)()()", "closing": r"([»”’]+)"}
NLTK = {
    "ellipsis": r"\.{2,}",
    "alone": r"[;@#$%&?!*]",
    "clitic": r"(?i)(')(?!re|ve|ll|m|t|s|d)(\w)\b",
    "closing": r"([»”’])",
}
CONTRACTIONS = ("can not", "d 'ye", "gim me", "gon na", "got ta", "lem me", "mor 'n", "wan na")


def lemmas(answer: str, wordnet: WordNet, tagger: Tagger) -> list[str]:
    """Return the base forms of the answer's words in lower case, with punctuation."""
    words = tokenise(answer, PYWSD)
    return [
        _lemma(word.lower(), PARTS.get(tag[:2]), wordnet, tagger)
        for word, tag in zip(words, tagger.tag(words), strict=True)
    ]


def _lemma(word: str, part: str | None, wordnet: WordNet, tagger: Tagger) -> str:
    part = part or PARTS.get(tagger.tag([word])[0][:2], "noun")
    form = min(wordnet.base_forms(word, part), key=len, default=word)
    if form in wordnet:
        return form
    return stem(word) if stem(word) in wordnet else word


def tokenise(text: str, rules: dict[str, str] = NLTK) -> list[str]:
    """Return the text's Penn Treebank tokens ("the boy's dog." is the, boy, 's, dog and a full stop)."""
    return [token for sentence in _sentences(text) for token in _tokenise_sentence(sentence, rules)]


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for end in re.finditer(r"(\S+)\.[\"')\]}]*\s+(?=(\S))", text):
        word = end[1].lstrip("\"'`([{").lower()
        is_number = word.replace(".", "").replace(",", "").isdigit()
        is_abbreviation = word.endswith(".") or len(word) == 1 or word.rsplit("-", 1)[-1] in ABBREVIATIONS
        if not is_abbreviation and (end[2].isupper() or not is_number):
            yield text[start : end.end()].strip()
            start = end.end()
    yield text[start:].strip()


def _tokenise_sentence(text: str, rules: dict[str, str]) -> list[str]:
    text = re.sub(r"([«“‘„]|`+)", r" \1 ", text)
    text = re.sub(r'^"|``', " `` ", text)
    text = re.sub(r"([ (\[{<])(\"|'')", r"\1 `` ", text)
    text = re.sub(rules["clitic"], r"\1 \2", text)
    # The final full stop with closing quotes or brackets, then tokens that always stand alone.
    text = re.sub(r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$", r"\1 \2 \3 ", text)
    text = re.sub(r"([:,])(\D|$)", r" \1 \2", text)
    text = re.sub(rules["ellipsis"], r" \g<0> ", text)
    text = re.sub(rules["alone"], r" \g<0> ", text)
    text = re.sub(r"([^'])' ", r"\1 ' ", text)
    text = re.sub(r"[\]\[(){}<>]|--", r" \g<0> ", text)
    text = re.sub(rules["closing"], r" \1 ", f" {text} ")
    text = text.replace('"', " '' ")
    text = re.sub(r"(\S)('')", r"\1 \2 ", text)
    text = re.sub(r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 ", text)
    text = re.sub(r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 ", text)
    for first, second in map(str.split, CONTRACTIONS):
        text = re.sub(rf"(?i)\b({first})({second})\b", r" \1 \2 ", text)
    return re.sub(r"(?i) ('t)(is|was)\b", r" \1 \2 ", text).split()
