"""Porter's stemmer (Porter 1980, "An algorithm for suffix stripping") with NLTK's changes.

WUPS needs it for words that WordNet does not know but whose stem it knows. NLTK's changes: a pool of irregular
forms, words of two letters stay, "ies"/"ied" of four letters keep their e (dies, die), y becomes i only after a
consonant, and three more suffixes in step 2.
"""

from collections.abc import Callable

POOL = {form: form for form in ("sky", "news", "howe", "proceed", "exceed", "succeed", "inning", "outing", "canning")}
POOL |= {"skies": "sky", "dying": "die", "lying": "lie", "tying": "tie"}
POOL |= {"innings": "inning", "outings": "outing", "cannings": "canning"}
STEP_2 = (
    "ational:ate tional:tion enci:ence anci:ance izer:ize bli:ble alli:al entli:ent eli:e ousli:ous ization:ize "
    "ation:ate ator:ate alism:al iveness:ive fulness:ful ousness:ous aliti:al iviti:ive biliti:ble fulli:ful"
)
STEP_3 = "icate:ic ative: alize:al iciti:ic ical:ic ful: ness:"
STEP_4 = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize"


def stem(word: str) -> str:
    """Return the stem of a word in lower case ("caresses": caress, "hopping": hop)."""
    if word in POOL:
        return POOL[word]
    if len(word) <= 2:
        return word
    word = _past_and_progressive(_plural(word))
    if word.endswith("y") and len(word) > 2 and _consonant(word, len(word) - 2):
        word = word[:-1] + "i"
    word = _derived(word)
    word = _replace(word, STEP_3, lambda rest: _measure(rest) > 0)
    word = _suffix(word)
    return _final(word)


def _consonant(word: str, i: int) -> bool:
    return word[i] not in "aeiou" and (word[i] != "y" or i == 0 or not _consonant(word, i - 1))


def _measure(word: str) -> int:
    """Return the number of vowel-consonant sequences, the m of the paper."""
    return "".join("c" if _consonant(word, i) else "v" for i in range(len(word))).count("vc")


def _has_vowel(word: str) -> bool:
    return any(not _consonant(word, i) for i in range(len(word)))


def _short(word: str) -> bool:
    """Return whether it is vowel and consonant ("us") or ends consonant, vowel, consonant but w, x, y ("hop")."""
    shape = [_consonant(word, i) for i in range(len(word))]
    return (shape[-3:] == [True, False, True] and word[-1] not in "wxy") or shape == [False, True]


def _replace(word: str, rules: str, condition: Callable[[str], bool]) -> str:
    """Return the word after the first rule whose suffix it has, if the rest meets the condition, else as it was."""
    for suffix, replacement in (rule.split(":") for rule in rules.split()):
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            return rest + replacement if condition(rest) else word
    return word


def _plural(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    return _replace(word, "sses:ss ss:ss s:", lambda rest: True)


def _past_and_progressive(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        rest = word.removesuffix(suffix)
        if rest != word and _has_vowel(rest):
            break
    else:
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and _consonant(rest, len(rest) - 1):
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _short(rest) else rest


def _derived(word: str) -> str:
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        return _derived(word[:-2])
    replaced = _replace(word, STEP_2, lambda rest: _measure(rest) > 0)
    if replaced == word and word.endswith("logi") and _measure(word[:-3]) > 0:
        return word[:-1]
    return replaced


def _suffix(word: str) -> str:
    for suffix in STEP_4.split():
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            return rest if _measure(rest) > 1 and (suffix != "ion" or rest[-1] in "st") else word
    return word


def _final(word: str) -> str:
    rest = word[:-1]
    if word.endswith("e") and (_measure(rest) > 1 or (_measure(rest) == 1 and not _short(rest))):
        word = rest
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
