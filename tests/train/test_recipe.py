"""Recipes: what is written is read back, overrides reach their key, and mistakes are named with a way out."""

from pathlib import Path

import pytest

from mirasol.train.recipe import Recipe, load_recipe, to_yaml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_survives_a_round_trip(path, write):
    recipe = load_recipe(path)
    assert load_recipe(write(to_yaml(recipe))) == recipe


def test_an_override_changes_one_of_two_values_that_an_alias_shares(write):
    first = "{task: esc10, root: a, augmentation: &one {shift_seconds: [0, 0]}}"
    text = f"data: {{also: [{first}, {{task: fsdd, root: b, augmentation: *one}}]}}"
    recipe = load_recipe(write(text), ["data.also.1.augmentation.flip_probability=0.25"])
    assert [source.augmentation.flip_probability for source in recipe.data.also] == [0.5, 0.25]
    assert [source.augmentation.shift_seconds for source in recipe.data.also] == [(0, 0), (0, 0)]
    with pytest.raises(ValueError, match="names entry 2 of a list of 2: number them from 0 to 1"):
        load_recipe(write(text), ["data.also.2.root=c"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.clips_per_epoch=20",
            "clips_per_epoch of grid must be a multiple of schedule.batch_size, found 20 and 16",
        ),
        ("data.clips_per_epoch=-16", "clips_per_epoch of grid must be at least 1, found -16"),
        ("data.questions_per_clip=0", "questions_per_clip of grid must be at least 1, found 0"),
        ("data.also=[{task: grid, root: data/grid_s1}]", "lists a task of the same root and splits twice"),
    ],
)
def test_shares_that_cannot_be_are_refused(write, override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(write(""), [override])


def test_an_empty_recipe_is_the_default(write):
    assert load_recipe(write("")) == Recipe()


def test_overrides_reach_nested_keys_with_their_type(write):
    recipe = load_recipe(
        write("optimizer: {weight_decay: 0.1}"),
        [
            "optimizer.learning_rate=3e-4",
            "optimizer.betas=[0.9, 0.95]",
            "schedule.time_limit_minutes=null",
            "model.overrides.combiner_config.num_latents=9",
            "data.augmentation.speed=[1, 1]",
            "bf16=false",
        ],
    )
    assert recipe.optimizer.learning_rate == 3e-4 and recipe.optimizer.weight_decay == 0.1
    assert recipe.optimizer.betas == (0.9, 0.95)
    assert recipe.schedule.time_limit_minutes is None
    assert recipe.model.overrides == {"combiner_config": {"num_latents": 9}}
    assert recipe.data.augmentation.speed == (1.0, 1.0)
    assert recipe.bf16 is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimizer.learnig_rate=1",
            r'"optimizer.learnig_rate" is not known.*nearest valid key is "optimizer.learning_r',
        ),
        ("learning_rate=1", r'nearest valid key is "optimizer.learning_rate"'),
        ("data.augmentation.flip=1", r'nearest valid key is "data.augmentation.flip_probability"'),
        ("optimzer.betas=1", r'"optimzer" is not known.*nearest valid key is "optimizer"'),
        ("seed=one", r"seed expects a whole number, found 'one' \(str\)"),
        ("seed=1.5", r"seed expects a whole number, found 1.5"),
        ("seed=true", r"seed expects a whole number, found True"),
        ("bf16=1", r"bf16 expects true or false, found 1"),
        ("optimizer.learning_rate=fast", r"optimizer.learning_rate expects a number, found 'fast'"),
        ("optimizer.betas=[0.9]", r"optimizer.betas expects a list of 2 values, found \[0.9\]"),
        ("data.task=grit", r"Expected a task out of .* found 'grit'. Did you mean 'grid'"),
        ("data=grid", r"data. expects a mapping of keys, found 'grid'"),
        ("seed.more=1", r'"seed.more=1" goes into seed, which holds 4'),
        ("seed", r'key=value, found "seed"'),
        ("optimizer.betas=[0.9", r'Expected YAML behind "=" in the override "optimizer.betas=\[0.9"'),
        ("schedule.batch_size=0", r"schedule.batch_size must be at least 1, found 0"),
        ("optimizer.ema_decay=1.0", r"ema_decay must lie between 0 and 1, found 1.0"),
    ],
)
def test_a_wrong_override_is_refused_with_the_way_out(write, override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(write("seed: 4"), [override])


def test_a_missing_recipe_and_broken_yaml_are_named(tmp_path, write):
    with pytest.raises(ValueError, match="found nothing at .*nowhere.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="Expected YAML in .*recipe.yaml"):
        load_recipe(write("seed: [1"))
    with pytest.raises(ValueError, match=r"key: value lines in .*recipe.yaml, found 'just text'"):
        load_recipe(write("just text"), ["seed=1"])


def test_no_epoch_at_all_is_refused(write):
    with pytest.raises(ValueError, match="at least 1 epoch"):
        load_recipe(write("schedule: {pretrain_epochs: 0, finetune_epochs: 0}"))
