"""Validation while training: names of the metrics of several sources, their mean, and the samples that are kept."""

import pytest

from mirasol.tasks import Question
from mirasol.train.recipe_schema import SourceRecipe, ValidationRecipe
from mirasol.train.validation import Validation, main_metric, source_names
from tests.train.toy import toy_recipe

GRID, OTHER = SourceRecipe(task="grid", root="a"), SourceRecipe(task="grid", root="b", val_split="other")
SOUNDS = SourceRecipe(task="esc10", root="c")


def test_a_task_that_occurs_twice_is_named_by_its_split_or_its_number():
    again = SourceRecipe(task="grid", root="d")
    assert source_names([GRID, SOUNDS]) == ["grid", "esc10"]
    assert source_names([GRID, SOUNDS, OTHER]) == ["grid_val", "esc10", "grid_other"]
    assert source_names([GRID, OTHER, again]) == ["grid_val_0", "grid_other", "grid_val_2"]
    assert (main_metric([GRID]), main_metric([GRID, SOUNDS])) == ("mean_words", "mean_tasks")


def test_metrics_of_several_sources_keep_their_names_and_their_main_ones_are_averaged(tmp_path):
    scores = {GRID: {"mean_words": 0.5, "words_both": 0.25}, SOUNDS: {"mean_exact_match": 1.0}}
    parts = {source: lambda model, keep, found=found: found for source, found in scores.items()}
    assert Validation(toy_recipe(tmp_path), parts)(None) == {
        "grid_mean_words": 0.5, "grid_words_both": 0.25, "esc10_mean_exact_match": 1.0, "mean_tasks": 0.75
    }  # fmt: skip
    assert Validation(toy_recipe(tmp_path), {GRID: parts[GRID]})(None) == scores[GRID]
    scores[SOUNDS].clear()  # asked to stop in the second source
    assert Validation(toy_recipe(tmp_path), parts)(None) == {}


@pytest.mark.parametrize("wanted, kept", [(3, [0, 3, 6]), (0, []), (20, [*range(10)])])
def test_samples_are_answers_to_the_same_questions_spread_over_the_split(tmp_path, wanted, kept):
    questions = [Question(f"q{n}", f"what {n}?", f"a{n}", "open") for n in range(10)]

    def score(model, keep):
        keep("sound", questions, [f"{model}{n}" for n in range(10)])
        return {"mean_words": 1.0}

    recipe = toy_recipe(tmp_path, validation=ValidationRecipe(samples=wanted))
    validation = Validation(recipe, {GRID: score})
    for model in ("x", "y"):
        validation(model)
        assert validation.samples == [
            {"source": "grid", "condition": "sound", "id": f"q{n}", "question": f"what {n}?", "answer": f"a{n}",
             "generated": f"{model}{n}"} for n in kept
        ]  # fmt: skip
