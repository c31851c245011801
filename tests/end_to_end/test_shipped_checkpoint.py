"""What the README says of the shipped checkpoint, measured again from its file on every third test clip."""

import pytest

from mirasol import DEFAULT_CHECKPOINT
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.generation import load_checkpoint
from mirasol.evaluate.runner import evaluate_rows, load_rows


@pytest.fixture(scope="module")
def scores(grid_root):
    if not (DEFAULT_CHECKPOINT / "config.json").is_file():
        pytest.skip(f"needs the shipped checkpoint in {DEFAULT_CHECKPOINT}, which is not there")
    model, processor = load_checkpoint()
    rows = load_rows("grid", grid_root, "test")[::3]
    return {
        name: evaluate_rows(model, processor, rows, Condition(name), root=grid_root, progress=False).metrics["scores"]
        for name in ("both", "sound")
    }


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["both", "sound"])
def test_words_are_heard(scores, condition):
    # The full table is 2 points or more above; 180 words have a standard error of about one point.
    assert scores[condition]["slots"] >= 0.95
    assert scores[condition]["sentence"] >= 0.75


@pytest.mark.slow
def test_the_letter_is_placed_in_time_at_least_twice_as_well_as_by_a_constant(scores):
    letter = scores["both"]["when_letter"]
    assert letter["median_error_seconds"] <= 0.5 * letter["constant_median_error_seconds"]
