"""`mirasol new`: a folder that trains at once, and refuses to overwrite."""

import os

import pytest

from mirasol.answer.ask import ask
from mirasol.train.recipe import load_recipe
from mirasol.train.resolve import resolve
from mirasol.train.run import train
from mirasol.train.starter import new


def test_the_recipe_of_the_repository_is_the_one_of_a_new_folder(repository, tmp_path):
    new(tmp_path / "mine")
    assert (tmp_path / "mine" / "recipe.yaml").read_bytes() == (repository / "recipes" / "own_clips.yaml").read_bytes()


def test_a_folder_that_is_not_empty_and_a_file_are_refused_and_kept(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "recipe.yaml" in new(tmp_path / "empty").files
    (tmp_path / "empty" / "train.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="new or empty folder at .*, found a folder with files"):
        new(tmp_path / "empty")
    assert (tmp_path / "empty" / "train.jsonl").read_text() == "mine"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="found a file"):
        new(tmp_path / "file")


def test_the_trial_that_is_printed_leaves_the_first_run_its_folder(tmp_path):
    """A run folder refuses other epochs and other clips, which the guide's next step has."""
    (trial,) = (line for line in str(new(tmp_path / "mine")).splitlines() if "mirasol train" in line)
    recipe = tmp_path / "mine" / "recipe.yaml"
    assert load_recipe(recipe, trial.split(" recipe.yaml ")[1].split()).output != load_recipe(recipe).output


def test_the_recipe_looks_at_the_whole_picture_hears_from_the_start_and_flips_nothing(repository):
    for change in ("model.checkpoint=shipped", "model.checkpoint=null"):
        recipe = resolve(load_recipe(repository / "recipes" / "own_clips.yaml", [change]))
        augmentation = recipe.data.sources[0].augmentation
        assert (recipe.processor.crop_fraction, recipe.processor.crop_center) == (1.0, (0.5, 0.5))
        assert augmentation.sound_first_epochs == augmentation.flip_probability == recipe.schedule.pretrain_epochs == 0
        assert augmentation.speed == (1, 1) and recipe.validation.metric == "mean_score"


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["shipped", "null"])
def test_a_new_folder_trains_as_it_is_from_shipped_and_from_scratch(tmp_path, monkeypatch, checkpoint):
    new(tmp_path)
    monkeypatch.chdir(tmp_path)
    overrides = [f"model.checkpoint={checkpoint}", "schedule.finetune_epochs=1", "data.num_workers=0", "device=cpu"]
    result = train("recipe.yaml", overrides)
    assert result.step == result.num_steps == 1 and os.path.samefile(result.export, tmp_path / "runs/first/best")
    assert "checkpoint: shipped" in (tmp_path / "runs/first/recipe.yaml").read_text() or checkpoint == "null"
    assert ask("clips/helicopter.mp4", "what is seen?", result.export).num_frames > 0
