"""Questions: streamed in pieces that join to the answer, with their own limits and options, batched with others."""

import math
import time
from types import SimpleNamespace

import pytest

from mirasol.answer.answerer import Answerer, Prompts
from mirasol.answer.ranking import Ranking
from mirasol.serve.batches import Question, send_text
from mirasol.serve.decode import Media
from mirasol.serve.engine import Engine
from tests.serve.test_engine import QUESTIONS, run


def test_pieces_of_an_answer_come_as_it_is_written_and_join_to_it(engine, files):
    (clip,) = run(engine, engine.watch(Media(video=files[0])))
    heard: list[list[str]] = [[], []]
    futures = [engine.ask(clip.id, QUESTIONS[number], on_text=heard[number].append) for number in range(2)]
    futures.append(engine.ask(clip.id, QUESTIONS[2]))
    replies = run(engine, *futures)
    assert ["".join(pieces) for pieces in heard] == [reply.text for reply in replies[:2]]
    assert len(heard[1]) >= 3 and engine.counts["question_batches"] == 1


def test_pieces_join_to_an_answer_that_was_cut_by_a_longer_question_of_its_batch(shipped, engine, files, monkeypatch):
    long, short = "which letter is named in this clip?", "what is said?"
    length = len(shipped.prompts([long]).rows["decoder_input_ids"][0])
    monkeypatch.setattr(shipped.processor.tokenizer, "model_max_length", length + 2)
    (clip,) = run(engine, engine.watch(Media(video=files[0])))
    found: list[str] = []
    replies = run(engine, engine.ask(clip, long), engine.ask(clip, short, on_text=found.append))
    assert engine.counts["question_batches"] == 1
    assert (replies[0].num_tokens, replies[1].num_tokens, replies[1].is_cut) == (2, 7, False)
    assert "".join(found) == replies[1].text


def test_temperature_and_limit_of_the_served_answerer_count(shipped, tmp_path, files):
    hot = Answerer(shipped.model, shipped.processor, max_new_tokens=2, temperature=3.0)
    engine = Engine(hot, tmp_path)
    (clip,) = run(engine, engine.watch(Media(video=files[0])))
    (reply,) = run(engine, engine.ask(clip, "what is said?"))
    ((given,),) = hot.answer(clip.view().watched, [["what is said?"]])
    assert (reply.num_tokens, reply.text) == (2, given.text)
    assert reply.confidence == pytest.approx(given.confidence)
    engine.close(0.0)


def test_a_character_of_several_tokens_is_sent_whole():
    heard: list[str] = []
    question = Question(Prompts({}), lambda: None, None, on_text=heard.append)  # type: ignore[arg-type]
    for text in ("caf", "caf\N{REPLACEMENT CHARACTER}", "café", "café"):
        send_text(question, text)
    assert heard == ["caf", "é"]


def test_questions_of_one_moment_keep_their_own_limits(engine, files):
    (clip,) = run(engine, engine.watch(Media(video=files[0])))
    limits = (1, None, 2)
    replies = run(engine, *(engine.ask(clip.id, QUESTIONS[1], max_new_tokens=limit) for limit in limits))
    assert [reply.is_cut for reply in replies] == [True, False, True]
    assert [reply.num_tokens for reply in replies] == [1, replies[1].num_tokens, 2] and replies[1].num_tokens > 3


def test_a_cancelled_question_is_not_answered(engine, files):
    (clip,) = run(engine, engine.watch(Media(video=files[0])))
    first, second = engine.ask(clip.id, QUESTIONS[0]), engine.ask(clip.id, QUESTIONS[0])
    assert first.cancel()
    assert run(engine, second)[0].text == "blue" and engine.counts["questions"] == 1


def test_options_are_ranked_as_the_answerer_ranks_them(shipped: Answerer, engine, files):
    (clip,) = run(engine, engine.watch(Media(video=files[0])))
    options = ["red", "blue", "green"]
    asked = [
        engine.ask(clip.id, QUESTIONS[0], options=options),
        engine.ask(clip.id, QUESTIONS[0], options=options[:2]),
    ]
    replies = run(engine, *asked)
    ((ranking,),) = shipped.rank(clip.view().watched, [shipped.prompts([QUESTIONS[0]], [options])])
    assert [reply.text for reply in replies] == ["blue", "blue"]
    assert replies[0].log_probabilities == pytest.approx(ranking.log_probabilities, rel=1e-4)
    assert replies[0].confidence == pytest.approx(ranking.confidence)
    (reply,) = run(engine, engine.ask(clip.id, QUESTIONS[0], options=["green and then red again", "blue"]))
    prompt = shipped.prompts([QUESTIONS[0]]).rows["decoder_input_ids"][0]
    assert reply.text == "blue" and reply.num_prompt_tokens == len(prompt)


@pytest.mark.parametrize("options", [None, ["red", "blue"]], ids=["generated", "ranked"])
def test_an_answer_that_is_not_finite_fails_alone(engine, files, options):
    clip, other = run(engine, *(engine.watch(Media(video=file)) for file in files[:2]))
    clip.tensors["last_hidden_state"].fill_(math.nan)
    bad, good = (engine.ask(each, QUESTIONS[0], options=options) for each in (clip, other))
    assert run(engine, good)[0].text in ("red", "blue")
    with pytest.raises(ValueError, match="not: check clip and weights for NaN"):
        run(engine, bad)


def test_the_chosen_option_is_the_likeliest_in_all_its_tokens(engine, files, monkeypatch):
    (clip,) = run(engine, engine.watch(Media(video=files[0])))
    ranking = Ranking(("a long one", "short"), (-3.0, -2.0), (3, 1))
    monkeypatch.setattr(Answerer, "rank", lambda *_: [[ranking]])
    (reply,) = run(engine, engine.ask(clip.id, QUESTIONS[0], options=ranking.options))
    assert reply.text == "short" and reply.confidence == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize("question, said", [("", "empty"), (" \n", "empty"), ("why " * 6_000, "20000 characters"),
                                            ("why " * 500, "context of")])  # fmt: skip
def test_a_question_that_cannot_be_asked_is_refused_before_it_waits(engine, files, question, said):
    (clip,) = run(engine, engine.watch(Media(video=files[0])))
    with pytest.raises(ValueError, match=said):
        engine.ask(clip.id, question)
    assert len(engine.questions) == 0


@pytest.fixture
def gathering(engine, monkeypatch):
    """An engine that waits for questions without end; what `slept` holds is called when it does."""
    monkeypatch.setattr("mirasol.serve.engine.GATHER_PART", math.inf)
    monkeypatch.setattr("mirasol.serve.engine.GATHER_SECONDS", math.inf)
    engine.slept = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: [engine.slept.pop()()])
    monkeypatch.setattr("mirasol.serve.engine.time", clock)
    return engine


def test_a_question_after_a_call_of_two_waits_for_the_second_so_that_one_call_answers_both(gathering, clip):
    watched = run(gathering, gathering.watch(Media(video=clip)))[0]
    futures = [gathering.ask(watched, QUESTIONS[0]) for _ in range(2)]
    gathering.step()
    before = gathering.counts["question_batches"]
    futures.append(gathering.ask(watched, QUESTIONS[0]))
    gathering.slept.append(lambda: futures.append(gathering.ask(watched, QUESTIONS[0])))
    gathering.step()
    assert len(futures) == 4 and all(future.done() for future in futures) and not len(gathering.questions)
    assert gathering.counts["question_batches"] == before + 1


def test_a_client_alone_never_waits_for_others(gathering, clip):
    watched = run(gathering, gathering.watch(Media(video=clip)))[0]
    for _ in range(3):  # waiting would raise: nobody else comes
        future = gathering.ask(watched, QUESTIONS[0])
        gathering.step()
        assert future.done()
