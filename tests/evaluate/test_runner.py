"""Evaluation: batches change nothing, bad clips are counted, shares are right by hand, nothing is half written."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mirasol.answer.answerer import Answerer
from mirasol.answer.generation import GeneratedAnswer
from mirasol.evaluate.batches import Job, _prediction, answer_batches, comparable
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.loader import Shown
from mirasol.evaluate.processes import Processes
from mirasol.evaluate.results import Clips, Metrics, Prediction
from mirasol.evaluate.runner import evaluate, evaluate_rows, load_rows, longest_answer, score, train_rows
from mirasol.evaluate.summary import compare, coverage, follows, paired_difference, share, summarise
from mirasol.tasks import Question, Row, get_task


@pytest.fixture(scope="module")
def rows(grid_root):
    """Three clips with questions of every kind, fewer of them, so that the test is quick."""
    return [replace(row, questions=row.questions[3:9]) for row in get_task("grid").load(grid_root, "test")[:3]]


def answers(answerer, rows, condition, batch_size=3):
    job = Job(rows, "grid", (condition,), batch_size)
    clips = [clip for _, batch in answer_batches(answerer, job, range(job.num_batches), workers=0) for clip in batch]
    assert [clip.id for clip in clips] == [row.id for row in rows]
    return [(p.question_id, p.generated) for clip in clips for p in clip.predictions[condition.key]]


def test_batch_size_changes_no_answer(answerer, rows):
    condition = Condition("both", -5.0, 1)
    assert answers(answerer, rows, condition=condition) == answers(answerer, rows, condition=condition, batch_size=1)


def test_clips_with_different_numbers_of_questions_are_answered_as_alone(answerer, rows):
    ragged = [replace(row, questions=row.questions[: 1 + i]) for i, row in enumerate(rows)]
    found = answers(answerer, ragged, condition=Condition())
    assert [name for name, _ in found] == [question.id for row in ragged for question in row.questions]
    assert found == answers(answerer, ragged, condition=Condition(), batch_size=1)


def test_an_unreadable_clip_is_counted_and_the_rest_is_answered(answerer, rows, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("this is no clip")
    mixed = [rows[0], replace(rows[1], media=broken), replace(rows[2], media=tmp_path / "missing.mp4")]
    with pytest.warns(UserWarning, match="1 of 3 clips could not be read"):
        result = evaluate_rows(answerer, mixed, Condition(), progress=False)
    clips = result.metrics.clips
    assert (clips.answered, clips.missing, list(clips.unreadable)) == (1, [rows[2].id], [rows[1].id])
    assert {p.clip for p in result.predictions} == {rows[0].id}
    there, all_asked = result.metrics.scores, result.metrics.scores_missing_wrong
    assert all_asked["num_questions"] == 3 * there["num_questions"]


def test_missing_clips_count_as_wrong(answerer, rows, tmp_path):
    """The score of clips that are there, scaled by their share; a model that knows all answers shows it."""
    right = [
        Prediction(row.id, q.id, q.kind, q.text, q.answer, q.answer, True, 1.0)
        for row in rows[:2]
        for q in row.questions
    ]
    metrics = summarise(right, rows, "grid", lost={rows[2].id})
    assert metrics["scores"]["digit"] == 1.0
    assert metrics["scores_missing_wrong"]["digit"] == pytest.approx(2 / 3)


def test_no_clip_at_all_is_refused_with_a_path(answerer, rows, tmp_path):
    gone = [replace(row, media=tmp_path / "gone" / row.media.name) for row in rows]
    with pytest.raises(ValueError, match="found none of 3, such as .*gone"):
        evaluate_rows(answerer, gone, Condition(), progress=False)


def test_the_command_writes_whole_files_with_all_predictions(untrained, grid_root, tmp_path):
    result = evaluate(untrained, "grid", grid_root, "test", "swapped", output=tmp_path / "run", max_clips=2)
    assert {"metrics.json", "predictions.jsonl", "run.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == len(result.predictions) == result.metrics.scores["num_questions"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert set(metrics["follows"]["words"]) == {"picture", "sound", "neither"}
    assert "follows" in str(result)


def test_validation_gives_flat_numbers_and_leaves_the_model_training(answerer, rows):
    model, processor = answerer.model, answerer.processor
    model.train()
    flat = score(model, processor, rows, conditions=("both", "picture"))
    assert model.training
    model.eval()
    assert {"words_both", "words_picture", "mean_words"} <= set(flat)
    assert all(isinstance(value, float) for value in flat.values())


def test_processes_that_share_validation_answer_each_batch_once_and_score_them_all(answerer, rows, monkeypatch):
    expected = score(answerer.model, answerer.processor, rows, conditions=("both",), batch_size=1)
    shares: dict[int, dict] = {}
    for rank in (0, 1):

        class Sharing(Processes):
            def gather(self, part):
                shares[self.rank] = part  # noqa: B023
                return {key: value for share in shares.values() for key, value in share.items()}  # noqa: B023

        monkeypatch.setattr("mirasol.evaluate.runner.joined_processes", lambda rank=rank: Sharing(rank, 2))
        found = score(answerer.model, answerer.processor, rows, conditions=("both",), batch_size=1)
        assert found == ({} if rank == 0 else expected)
    assert {rank: set(share) for rank, share in shares.items()} == {0: {0, 2}, 1: {1}}


def test_validation_that_is_asked_to_stop_answers_one_more_batch_and_gives_no_metrics(answerer, rows):
    asked = []

    def should_stop():
        asked.append(1)
        return len(asked) == 2

    found = score(answerer.model, answerer.processor, rows, batch_size=1, should_stop=should_stop)
    assert found == {} and len(asked) == 2


def test_joined_splits_are_asked_together(grid_root):
    assert len(load_rows("grid", grid_root, "val+test")) == 180


def test_swapped_clips_are_asked_only_where_their_answers_differ(grid_root):
    row, partner = get_task("grid").load(grid_root, "test")[:2]
    task = get_task("grid")
    for question, other in comparable(row, partner, task):
        assert other is None or question.answer != other.answer
    assert [question for question, _ in comparable(row, None, task)] == list(row.questions)
    same = {a.text for a in row.questions for b in partner.questions if (a.text, a.answer) == (b.text, b.answer)}
    assert same.isdisjoint({question.text for question, _ in comparable(row, partner, task)})


def prediction(clip, kind, answer, said, sound_answer=None):
    right, heard = said == answer, sound_answer and said == sound_answer
    return Prediction(
        clip, f"{clip}/{kind}", kind, f"{kind}?", answer, said, right, 0.5, (1.0, 1.2), sound_answer, heard
    )


def test_follows_counts_picture_sound_and_neither():
    found = [
        prediction("a", "color", "red", "red", "blue"),
        prediction("a", "letter", "f", "g", "g"),
        prediction("b", "color", "red", "green", "blue"),
        prediction("b", "letter", "f", "g", "g"),
    ]
    shares = follows(found, ["color", "letter"])
    assert {part: entry.value for part, entry in shares} == {"picture": 0.25, "sound": 0.5, "neither": 0.25}


def test_the_interval_of_a_kind_is_over_the_clips_that_it_is_asked_of():
    asked = [prediction(name, "color", "red", "red" if name < "d" else "blue", "") for name in "abcdef"]
    others = [prediction(name, "letter", "f", "f", "") for name in "ghijklmnop"]
    alone, among = (share(found, lambda p: p.right, ["color"]) for found in (asked, asked + others))
    assert among == alone
    assert among.num_clips == 6


def test_swapped_clips_are_judged_by_every_accepted_answer():
    """A synonym counts for picture and sound, and a question that one answer is right for in both is left out."""
    task = get_task("jsonl")

    def asked(answer, *references, text="what?", **more):
        return Question(f"{answer}/{text}", text, answer, "question", references=references, **more)

    picture = Row("a", Path("a.mp4"), (asked("car", "auto"), asked("dog", "hound", text="who?"), asked("1", text="n")))
    sound = Row("b", Path("b.mp4"), (asked("boat", "ship"), asked("wolf", "hound", text="who?"), asked("2", text="n")))
    pairs = comparable(picture, sound, task)
    assert [(mine.answer, other.answer) for mine, other in pairs] == [("car", "boat"), ("1", "2")]
    shown = Shown({}, 1.0, True, sound)
    found = [
        _prediction(picture, *pairs[0], shown, GeneratedAnswer(said, -1.0, (3,)), task)
        for said in ("Auto.", "ship", "boat", "plane")
    ]
    shares = follows(found, ["question"])
    assert {part: entry.value for part, entry in shares} == {"picture": 0.25, "sound": 0.5, "neither": 0.25}


def test_paired_difference_pools_seeds_and_keeps_clips_together():
    names = [f"clip{i}" for i in range(31)]
    better = [[prediction(name, "color", "red", "red") for name in names] for _ in range(3)]
    worse = [
        [prediction(n, "color", "red", "red" if i % 2 else "blue") for i, n in enumerate(names)] for _ in range(3)
    ]
    difference = paired_difference(better, worse, ["color"])
    assert difference.value == pytest.approx(16 / 31)
    assert 0 < difference.low < difference.value < difference.high
    assert difference.num_clips == 31
    with pytest.raises(ValueError, match="as many runs"):
        paired_difference(better, worse[:2], ["color"])


def test_intervals_are_over_files_and_not_over_clips_cut_from_them():
    found = [prediction(str(c), "color", "red", "red" if c < 5 else "blue") for c in range(10)]
    of_files = [replace(p, file=f"{int(p.clip) // 5}.wav") for p in found]
    clips, files = (share(predictions, lambda p: p.right, ["color"]) for predictions in (found, of_files))
    assert (clips.value, files.value) == (0.5, 0.5) and (clips.num_clips, files.num_clips) == (10, 2)
    assert clips.low > files.low == 0.0 and clips.high < files.high == 1.0


def test_summary_of_a_model_that_names_no_time_is_valid_json():
    found = [prediction(str(i), "when_letter", "1.0", "soon" if i % 2 else "1.1") for i in range(5)]
    rows = [
        Row(p.clip, Path(p.clip), (Question(p.question_id, p.question, p.answer, p.kind, p.seconds),)) for p in found
    ]
    metrics = Metrics(
        checkpoint="x", task="grid", split="test", condition="both", clips=Clips(asked=5, answered=5),
        **summarise(found, rows, "grid"),
    )  # fmt: skip
    written = json.loads(metrics.as_json(), parse_constant=pytest.fail)
    assert written["schema_version"] == 3 and written["intervals_95"]["when_letter"]["high"] is None
    assert metrics.intervals_95["when_letter"].value == pytest.approx(0.1)
    assert "median error 0.100 s" in str(metrics)
    read = Metrics.model_validate_json(metrics.as_json())
    assert read.as_json() == metrics.as_json() and np.isnan(read.intervals_95["when_letter"].high)


def test_a_missing_task_or_split_is_named(grid_root):
    with pytest.raises(ValueError, match="Did you mean 'grid'"):
        load_rows("gird", grid_root, "test")
    with pytest.raises(ValueError, match="labels.csv"):
        load_rows("grid", Path("nowhere"), "test")


def test_conditions_and_noise_levels_are_measured_in_one_run_and_compared(untrained, grid_root, tmp_path):
    result = evaluate(
        untrained, "grid", grid_root, "test", ["both", "sound"], [-5.0, -10.0], [0, 1], tmp_path / "run", max_clips=2
    )
    assert (result.metrics.noise_db, result.metrics.noise_seed) == (-5.0, 0)
    entries = result.metrics.comparisons
    assert [(e.noise_db, e.condition) for e in entries] == [(d, c) for d in (-5.0, -10.0) for c in ("both", "sound")]
    assert {e.questions for e in entries} == {2 * 2 * 6} and {e.minus_first.num_clips for e in entries} == {2}
    assert "sound only, white noise at -10 dB (seeds 0, 1)" in str(result)
    names = {path.name for path in (tmp_path / "run").glob("predictions*")}
    assert "predictions.jsonl" in names and "predictions_sound_-10dB_seed1.jsonl" in names and len(names) == 8


def test_the_gain_is_paired_under_the_same_noise_and_pools_seeds():
    def said(clip, right):
        return replace(prediction(clip, "color", "red", "red" if right else "blue"), sound_used=True)

    clips = ("a", "b")
    shown = {
        Condition("both", -5.0, 0): [said(clip, True) for clip in clips],
        Condition("both", -5.0, 1): [said(clip, clip == "a") for clip in clips],
        Condition("sound", -5.0, 0): [said(clip, clip == "b") for clip in clips],
        Condition("sound", -5.0, 1): [said(clip, False) for clip in clips],
        Condition("both", -10.0, 0): [said(clip, False) for clip in clips],
        Condition("sound", -10.0, 0): [said(clip, False) for clip in clips],
    }
    both, sound, _, noisier = compare(shown, "grid")
    assert (both.right.value, sound.right.value) == (0.75, 0.25)
    assert (both.minus_first.value, sound.minus_first.value, noisier.minus_first.value) == (0.0, -0.5, 0.0)
    assert sound.noise_seeds == [0, 1] and sound.questions == 4


def test_answers_without_a_finite_probability_make_a_bad_clip_with_its_reason(answerer, rows, monkeypatch):
    real = Answerer.answer

    def one_broken(self, watched, questions):
        given = real(self, watched, questions)
        return [[replace(given[0][0], log_likelihood=float("nan")), *given[0][1:]], *given[1:]]

    monkeypatch.setattr(Answerer, "answer", one_broken)
    with pytest.warns(UserWarning, match="1 of 3 clips could not be read .*1 of 6 that are not"):
        result = evaluate_rows(answerer, rows, progress=False)
    assert list(result.metrics.clips.unreadable) == [rows[0].id] and result.metrics.clips.answered == 2
    assert {p.clip for p in result.predictions} == {row.id for row in rows[1:]}


def test_a_warned_clip_that_proves_unreadable_is_counted_once(answerer, rows, monkeypatch, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(rows[0].media.read_bytes()[:-500])
    clip = replace(rows[0], media=cut)
    with pytest.warns(UserWarning, match="1 clips gave warnings"):
        assert evaluate_rows(answerer, [clip], progress=False).metrics.clips.with_warnings == 1
    real = Answerer.answer

    def broken(self, watched, questions):
        return [
            [replace(one, log_likelihood=float("nan")) for one in given] for given in real(self, watched, questions)
        ]

    monkeypatch.setattr(Answerer, "answer", broken)
    with pytest.warns(UserWarning, match="1 of 1 clips could not be read"):
        counts = evaluate_rows(answerer, [clip], progress=False).metrics.clips
    assert (list(counts.unreadable), counts.with_warnings) == ([clip.id], 0)


def test_answers_that_are_cut_are_counted(answerer, rows):
    limited = Answerer(answerer.model, answerer.processor, max_new_tokens=1)
    metrics = evaluate_rows(limited, rows, progress=False).metrics
    assert metrics.cut_answers == sum(len(row.questions) for row in rows)
    assert f"{metrics.cut_answers} answers reached the limit of tokens" in str(metrics)


def test_a_part_of_a_published_split_is_said_to_be_one():
    found = [prediction(f"clip{i % 7}", f"kind{i}", "yes", "no") for i in range(19)]
    part = coverage(found, "msrvtt_qa", "test")
    assert str(part) == "19 questions of 72,821 published"
    clips = coverage(found, "vggsound", "test")
    assert (clips.measured, clips.unit) == (7, "clips")
    assert coverage(found, "grid", "test") is None


def test_ranking_questions_without_options_is_refused_before_anything_is_decoded(answerer, rows, monkeypatch):
    monkeypatch.setattr(Condition, "read", pytest.fail)
    with pytest.raises(ValueError, match="options to rank for every question, found none for 18 of 18 questions"):
        evaluate_rows(answerer, rows, rank=True, progress=False)


def test_a_broken_train_split_is_an_error_and_an_absent_one_is_not(tmp_path):
    line = '{"media": "a.mp4", "question": "what?", "answer": "x"}\n'
    (tmp_path / "test.jsonl").write_text(line)
    assert train_rows("jsonl", tmp_path) == []
    (tmp_path / "train.jsonl").write_text("no json\n")
    with pytest.raises(ValueError, match="train.jsonl:1"):
        train_rows("jsonl", tmp_path)


def test_missing_media_of_the_train_split_are_not_reported(tmp_path, recwarn):
    """Its answers alone are needed; the filters of warnings belong to the whole process and stay as they are."""
    line = '{{"media": "{}.mp4", "question": "what?", "answer": "x"}}\n'
    (tmp_path / "there.mp4").touch()
    (tmp_path / "train.jsonl").write_text(line.format("there") + line.format("missing"))
    assert len(train_rows("jsonl", tmp_path)) == 2 and not recwarn
    with pytest.warns(UserWarning, match="1 of 2 files"):
        load_rows("jsonl", tmp_path, "train")


def test_validation_gives_answers_room_for_twice_the_longest_right_one(answerer, rows):
    longest = max(
        len(answerer.processor.tokenizer(q.answer, add_special_tokens=False)["input_ids"])
        for row in rows
        for q in row.questions
    )
    assert longest_answer(answerer.processor, rows) == 8 + 2 * longest


def test_a_condition_with_fewer_questions_is_compared_on_those_alone():
    """Swapped sound leaves out questions with the same answer; the first condition's answers to them do not count."""
    first = [replace(prediction(c, kind, "red", "red"), sound_used=True) for c in "ab" for kind in ("color", "letter")]
    wrong = [prediction(clip, "color", "red", "blue") for clip in "ab"]
    both, swapped = compare({Condition(): first, Condition("swapped"): wrong}, "grid")
    assert (both.questions, swapped.questions) == (4, 2) and swapped.minus_first.value == -1.0


def test_a_clip_that_the_first_condition_did_not_answer_is_in_no_difference():
    """Such as one whose answers have no finite probability with its picture, and do without."""
    first = [replace(prediction("a", "color", "red", "red"), sound_used=True)]
    other = [prediction("a", "color", "red", "blue"), prediction("b", "color", "red", "red")]
    difference = compare({Condition(): first, Condition("sound"): other}, "grid")[1].minus_first
    assert (difference.value, difference.num_clips) == (-1.0, 1)


def test_missing_clips_keep_the_constant_answer_beside_the_times(grid_root):
    rows = [replace(row, questions=row.questions[-1:]) for row in get_task("grid").load(grid_root, "test")[:3]]
    timed = rows[0].questions[0].kind
    metrics = summarise([], rows, "grid", lost={row.id for row in rows}, train=rows)
    assert "constant_median_error_seconds" in metrics["scores_missing_wrong"][timed]


def test_swapped_clips_leave_out_what_either_side_accepts_from_the_other():
    task = get_task("jsonl")
    near = Question("a", "how many?", "1", "x", metric="number", tolerance=0.5)
    far = Question("b", "how many?", "3", "x", references=("1.2",), metric="number")
    for mine, other in ((near, far), (far, near)):
        assert comparable(Row("p", Path("p"), (mine,)), Row("s", Path("s"), (other,)), task) == []


def test_parts_of_a_split_meet_without_a_common_clip(monkeypatch):
    edge = next(str(i) for i in range(100_000) if zlib.crc32(str(i).encode()) % 10_000 == 500)
    rows = [Row(name, Path(name)) for name in (edge, *map(str, range(200)))]
    monkeypatch.setattr(type(get_task("jsonl")), "load", lambda *_: rows)
    low, high = (load_rows("jsonl", "root", f"train[{part}]") for part in (":5%", "5%:"))
    assert len(low) + len(high) == len(rows) and edge in {row.id for row in high}
