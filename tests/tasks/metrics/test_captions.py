"""CIDEr and ROUGE-L equal the COCO caption evaluation; the values are those of its script, see ../data/README.md."""

import json
from pathlib import Path

import pytest

from mirasol.tasks import Question
from mirasol.tasks.metrics.captions import cider, longest_common, rouge_l, words
from mirasol.tasks.metrics.judged import is_right

ROWS = json.loads((Path(__file__).parent.parent / "data" / "captions.json").read_text())


def test_cider_equals_the_official_script():
    found = cider([row["caption"] for row in ROWS], [row["references"] for row in ROWS])
    assert found == pytest.approx([row["cider"] for row in ROWS], abs=1e-8)


def test_rouge_l_equals_the_official_script():
    found = [rouge_l(row["caption"], row["references"]) for row in ROWS]
    assert found == pytest.approx([row["rouge_l"] for row in ROWS], abs=1e-8)


def test_a_copy_has_all_of_both_and_a_caption_of_other_words_nothing():
    captions, references = ["a dog barks at night", "rain falls on roofs"], [["a dog barks at night"], ["the sea"]]
    assert cider(captions, references) == pytest.approx([10, 0]) and rouge_l(captions[0], references[0]) == 1
    assert cider([], []) == [] and cider(["a b"], [["a b"]]) == [0]  # of one caption no word is rarer than another


def test_words_are_those_of_the_stanford_tokenizer():
    text = "The U.S. doesn't: it's 10:30 p.m., $5.00 (50%) -- two-year-old's 2nd cannot."
    assert words(text) == [
        "the", "u.s.", "does", "n't", "it", "'s", "10:30", "p.m.", "$", "5.00", "50", "%", "two-year-old", "'s", "2nd",
        "can", "not",
    ]  # fmt: skip


def test_letters_with_marks_are_equal_however_they_are_encoded():
    composed, decomposed = "un caf\u00e9 fran\u00e7ais", "un cafe\u0301 franc\u0327ais"
    assert words(decomposed) == ["un", "caf\u00e9", "fran\u00e7ais"] and rouge_l(decomposed, [composed]) == 1
    question = Question("1", "what?", composed, "open", references=("th\u00e9",))
    assert is_right(question, decomposed) and is_right(question, "The\u0301.") and not is_right(question, "un cafe")


def test_the_longest_common_subsequence_keeps_the_order():
    assert longest_common("abcbdab", "bdcaba") == 4 and longest_common("abc", "") == 0 == longest_common("", "abc")
    assert longest_common("aab", "aba") == 2
