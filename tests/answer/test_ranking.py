"""Ranking options: the score is the hand-computed sum of a plain forward, whatever the batch, its order and size."""

import dataclasses
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from mirasol.answer import answerer as answerer_module
from mirasol.answer.generation import GeneratedAnswer
from mirasol.answer.ranking import Ranking, require_finite, score_rows
from mirasol.evaluate.results import Prediction
from mirasol.evaluate.summary import ranking_scores
from mirasol.tasks import Question, get_task

COLORS = ("blue", "green", "red", "white")
ASKED = [  # per clip: other numbers of questions and of options
    [Question("a/0", "which color is named?", "blue", "color", options=COLORS)],
    [
        Question("b/0", "which digit is named?", "two", "digit", options=("two", "seven")),
        Question("b/1", "what is said?", "bin blue at f two now", "x", options=("bin blue at f two now", "no", "lay")),
    ],
    [],
]


@pytest.fixture(scope="module")
def clips(answerer, grid_root):
    """The chunk inputs of three clips."""
    processor = answerer.processor
    return [
        processor.chunk_clip(processor.read_clip(row.media)) for row in get_task("grid").load(grid_root, "test")[:3]
    ]


@torch.no_grad()
def by_hand(answerer, clip, question: Question, option: str) -> tuple[float, int]:
    """Sum and number of the log-probabilities of an option's tokens and the end token, from one forward of its own."""
    model, processor = answerer.model, answerer.processor
    prompt = processor.tokenize_questions([question.text])["decoder_input_ids"][0]
    answer = processor.tokenizer(option, add_special_tokens=False)["input_ids"]
    latents, ids = answerer.watch(clip).encoder_outputs, torch.tensor([prompt + answer])
    logits = model(encoder_outputs=latents, decoder_input_ids=ids).logits[0]
    total = 0.0
    for place, token in enumerate([*answer, processor.tokenizer.eos_token_id]):
        row = logits[len(prompt) - 1 + place]
        total += float(row[token] - row.exp().sum().log())
    return total, len(answer) + 1


def ranked(answerer, clips, asked) -> list[list[Ranking]]:
    prompts = [answerer.prompts([q.text for q in of_clip], [q.options for q in of_clip]) for of_clip in asked]
    return answerer.rank(answerer.watch(*clips), prompts)


@pytest.mark.parametrize("rows_at_once", [None, 3, 1])
def test_scores_are_the_sums_of_a_plain_forward_in_chunks_of_any_size(answerer, clips, rows_at_once, monkeypatch):
    monkeypatch.setattr(answerer_module, "score_rows", partial(score_rows, rows_at_once=rows_at_once))
    found = ranked(answerer, clips, ASKED)
    assert [len(of_clip) for of_clip in found] == [1, 2, 0]
    for clip, questions, rankings in zip(clips, ASKED, found, strict=True):
        for question, ranking in zip(questions, rankings, strict=True):
            assert ranking.options == question.options
            for option, total, count in zip(
                question.options, ranking.log_probabilities, ranking.num_tokens, strict=True
            ):
                expected = by_hand(answerer, clip, question, option)
                assert (total, count) == (pytest.approx(expected[0], abs=1e-4), expected[1])  # float32 sums


@pytest.mark.parametrize("likeliest, is_greedy", [
    ([9, 3, 4], True), ([0, 3, 4], True), ([9, 3, 5], False), ([9, 5, 4], False),
])  # fmt: skip
def test_an_answer_is_greedy_if_each_of_its_tokens_and_the_end_is_the_likeliest(likeliest, is_greedy):
    class Model:
        config, device = SimpleNamespace(text_config=SimpleNamespace(vocab_size=11)), "cpu"

        def __call__(self, **inputs):
            return SimpleNamespace(logits=torch.nn.functional.one_hot(torch.tensor([likeliest]), 11).float())

    rows = {"decoder_input_ids": [[1, 2, 3]], "labels": [[-100, 3, 4]]}
    (((_, found),),) = score_rows(Model(), SimpleNamespace(chunk_mask=[True]), [rows], 0)
    assert found is is_greedy


def test_the_order_of_clips_in_a_batch_changes_no_score(answerer, clips):
    forward, backward = ranked(answerer, clips, ASKED), ranked(answerer, clips[::-1], ASKED[::-1])[::-1]
    alone = [ranked(answerer, [clip], [questions])[0] for clip, questions in zip(clips, ASKED, strict=True)]
    for other in (backward, alone):
        for mine, theirs in zip(sum(forward, []), sum(other, []), strict=True):
            assert mine.log_probabilities == pytest.approx(theirs.log_probabilities, abs=1e-4)  # float32 sums


def test_latents_are_encoded_once_and_never_copied(answerer, clips):
    model = answerer.model
    calls, shapes = [], []
    hooks = [
        model.get_encoder().register_forward_hook(lambda *_: calls.append(1)),
        model.model.decoder.layers[0].cross_attention.k_proj.register_forward_hook(
            lambda _, inputs, output: shapes.append(len(output))
        ),
    ]
    many = Question("c/0", "which?", "0", "x", options=tuple(f"class {i}" for i in range(309)))
    ranked(answerer, clips[:2], [[many], [many]])
    for hook in hooks:
        hook.remove()
    assert len(calls) == 1
    assert set(shapes) == {2}  # one set of keys a clip, not one a row of text


def test_the_mean_over_tokens_does_not_favour_short_options():
    ranking = Ranking(("no", "a long answer", "no too"), (-3.0, -4.0, -3.0), (1, 4, 2))
    assert ranking.best(3) == ["no", "no too", "a long answer"]
    assert ranking.best(2, per_token=True) == ["a long answer", "no too"]


def test_of_equally_likely_options_the_first_in_the_question_comes_first():
    assert Ranking(("b", "a", "c"), (-1.0, -1.0, -0.5), (1, 1, 1)).best(3) == ["c", "b", "a"]


def test_the_confidence_of_an_option_is_its_share_of_the_probability_of_all():
    ranking = Ranking(("no", "yes"), (math.log(0.06) - 1000, math.log(0.02) - 1000), (1, 2))
    assert ranking.shares == pytest.approx((0.75, 0.25))
    assert ranking.confidence == pytest.approx(0.75)
    twice = Ranking(("no", "yes", "no"), (math.log(0.06), math.log(0.02), math.log(0.06)), (1, 2, 1))
    assert twice.shares == pytest.approx((0.75, 0.25, 0.75)), "an option given twice is one option"


def test_options_or_answers_without_a_finite_probability_are_refused():
    good, bad = Ranking(("a", "b"), (-1.0, -2.0), (1, 1)), Ranking(("a", "b"), (-1.0, math.nan), (1, 1))
    require_finite([good])
    for given in ([good, bad], [GeneratedAnswer("a", -math.inf, (3,))]):
        with pytest.raises(ValueError, match=r"found 1 of \d that are not"):
            require_finite(given)


def test_a_question_without_options_is_refused(answerer):
    with pytest.raises(ValueError, match="found 1 for 'what\\?'"):
        answerer.prompts(["what?"], [["x"]])


def test_top_five_counts_an_accepted_answer_among_the_best_five():
    def prediction(clip, answer, best):
        return Prediction(clip, clip, "class", "?", answer, best[0], answer == best[0], 0.5, ranked=best,
                          ranked_per_token=best[::-1])  # fmt: skip

    names = list("abcdefg")
    found = [prediction("1", "a", names[:5]), prediction("2", "E", names[:5]), prediction("3", "g", names[:5])]
    asked = {p.clip: Question(p.clip, "?", p.answer, "class") for p in found}
    task = get_task("jsonl")
    scores = ranking_scores(found, task, asked)
    assert scores["sum"].top_1.value == pytest.approx(1 / 3)
    assert scores["sum"].top_5.value == scores["per_token"].top_5.value == pytest.approx(2 / 3)
    assert scores["per_token"].top_1.value == pytest.approx(1 / 3)  # the other clip
    asked["3"] = dataclasses.replace(asked["3"], references=("D",))
    scores = ranking_scores(found, task, asked)
    assert scores["sum"].top_1.value == pytest.approx(1 / 3) and scores["sum"].top_5.value == 1
