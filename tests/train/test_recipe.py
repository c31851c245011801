"""Recipes: what is written is read back, overrides reach their key, and mistakes are named with a way out."""

from dataclasses import replace
from pathlib import Path

import pytest

from mirasol.data.augment import PRESETS, AugmentConfig
from mirasol.train.recipe import flatten, load_recipe, to_yaml
from mirasol.train.recipe_schema import Recipe

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
    text = f"data: {{sources: [{first}, {{task: fsdd, root: b, augmentation: *one}}]}}"
    recipe = load_recipe(write(text), ["data.sources.1.augmentation.flip_probability=0.25"])
    assert [source.augmentation.flip_probability for source in recipe.data.sources] == [0.5, 0.25]
    assert [source.augmentation.shift_seconds for source in recipe.data.sources] == [(0, 0), (0, 0)]
    with pytest.raises(ValueError, match="names entry 2 of a list of 2: number them from 0 to 1"):
        load_recipe(write(text), ["data.sources.2.root=c"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.sources.0.clips_per_epoch=-16", "data.sources.0.clips_per_epoch must be at least 1, found -16"),
        ("data.sources.0.questions_per_clip=0", "data.sources.0.questions_per_clip must be at least 1, found 0"),
        ("data.sources=[{task: grid, root: a}, {task: grid, root: a}]", "a task of the same root and splits twice"),
        ("data.sources=[]", r"data.sources expects a list of 1 or more values, found \[\]"),
        ("data.sources=[{task: grid}]", "data.sources.0.root is missing, found only task: write root: VALUE"),
    ],
)
def test_sources_that_cannot_be_are_refused(write, override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(write(""), [override])


def test_an_empty_recipe_is_the_default(write):
    assert load_recipe(write("")) == Recipe()


def test_the_only_source_of_an_empty_recipe_can_be_changed_by_number(write):
    (source,) = load_recipe(write("seed: 1"), ["data.sources.0.root=mine"]).data.sources
    assert (source.task, source.root) == ("grid", "mine")


def test_keys_are_flat_by_dots_and_numbers(write):
    recipe = load_recipe(write("data: {sources: [{task: grid, root: a}, {task: fsdd, root: b}]}"))
    flat = flatten(recipe)
    assert flat["data.sources.1.root"] == "b" and flat["optimizer.betas"] == (0.9, 0.98)
    assert flat["model.overrides"] == {} and flat["model.lora"] is None


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
        ("data.sources.0.roots=1", r'"data.sources.0.roots" is not known.*nearest valid key is "data.sources.0.root"'),
        ("optimzer.betas=1", r'"optimzer" is not known.*nearest valid key is "optimizer"'),
        ("seed=one", r"seed expects a whole number, found 'one' \(str\)"),
        ("seed=1.5", r"seed expects a whole number, found 1.5"),
        ("seed=true", r"seed expects a whole number, found True"),
        ("bf16=1", r"bf16 expects true or false, found 1"),
        ("output=3", r"output expects text, found 3"),
        ("optimizer.learning_rate=fast", r"optimizer.learning_rate expects a number, found 'fast'"),
        ("optimizer.learning_rate=true", r"optimizer.learning_rate expects a number, found True"),
        ("optimizer.learning_rate=.nan", r"optimizer.learning_rate expects a finite number, found nan"),
        ("optimizer.learning_rate=0", r"optimizer.learning_rate must be above 0, found 0"),
        ("optimizer.betas=[0.9]", r"optimizer.betas expects a list of 2 values, found \[0.9\]"),
        ("optimizer.betas=[0.9, 0.9, 0.9]", r"optimizer.betas expects a list of 2 values, found \[0.9, 0.9, 0.9\]"),
        ("optimizer.betas=0.9", r"optimizer.betas expects a list of 2 values, found 0.9"),
        ("optimizer.betas=[0.9, 1.0]", r"optimizer.betas.1 must be below 1, found 1.0"),
        ("optimizer.name=sgd", r"optimizer.name must be one of muon, adamw, found 'sgd'"),
        ("data.augmentation.speed=[1]", r"data.augmentation.speed expects a list of 2 values, found \[1\]"),
        ("data.augmentation.flip_probability=2", r"data.augmentation.flip_probability must be at most 1, found 2"),
        ("data.augmentation.zoom=[2, 1]", r"augmentation zoom as \[low, high\], found \[2, 1\]: swap them"),
        ("data.sources.0.task=grit", r"Expected a task out of .* found 'grit'. Did you mean 'grid'"),
        ("data=grid", r"data expects a mapping of keys, found 'grid'"),
        ("data.augmentation=3", r"data.augmentation expects a mapping of keys, found 3"),
        ("data.augmentation=gentel", r"a preset out of none, gentle, strong, .* 'gentel'. Did you mean 'gentle'"),
        ("model.lora=8", r"model.lora expects a mapping of keys, found 8"),
        ("seed.more=1", r'"seed.more=1" goes into seed, which holds 4'),
        ("seed", r'key=value, found "seed"'),
        ("optimizer.betas=[0.9", r'Expected YAML behind "=" in the override "optimizer.betas=\[0.9"'),
        ("schedule.batch_size=0", r"schedule.batch_size must be at least 1, found 0"),
        ("optimizer.ema_decay=1.0", r"optimizer.ema_decay must be below 1, found 1.0"),
        ("model={checkpoint: a, preset: nano}", r"preset is 'nano', but .*checkpoint, a: .*model.preset=null"),
    ],
)
def test_a_wrong_override_is_refused_with_the_way_out(write, override, message):
    with pytest.raises(ValueError, match=message) as refusal:
        load_recipe(write("seed: 4"), [override])
    assert "\n" not in str(refusal.value) and "pydantic" not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "optimizer.learning_rate"), ("optimizer.lr", "optimizer.learning_rate"),
        ("fps", "processor.frames_per_second"), ("processor.fps", "processor.frames_per_second"),
        ("batch", "schedule.batch_size"), ("epochs", "schedule.finetune_epochs"),
        ("schedule.epochs", "schedule.finetune_epochs"), ("optimizer.lr_rate", "optimizer.learning_rate"),
        ("max_grad_norm", "optimizer.gradient_clip"), ("output_dir", "output"), ("workers", "data.num_workers"),
        ("dataset", "data.sources"), ("fp16", "bf16"), ("licence", "export.license"),
    ],
)  # fmt: skip
def test_words_of_other_programs_lead_to_the_key_they_mean(write, key, meant):
    with pytest.raises(ValueError, match=f'"{key}" is not known; the nearest valid key is "{meant}"'):
        load_recipe(write(""), [f"{key}=1"])


def test_every_word_of_other_programs_leads_to_a_key_that_is_there(write):
    from mirasol.settings import MEANINGS
    from mirasol.train.recipe import _dotted

    keys = list(_dotted())
    assert set(MEANINGS) <= set(keys)
    assert not {word for words in MEANINGS.values() for word in words} & set(keys)


@pytest.mark.parametrize("old", ["task: fsdd", "root: FSDD", "also: [{task: esc10, root: ESC10}]"])
def test_keys_of_recipes_before_the_list_of_sources_lead_to_it(write, old):
    with pytest.raises(ValueError, match='is not known; the nearest valid key is "data.sources"'):
        load_recipe(write(f"data: {{{old}}}"))


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


def test_augmentation_is_a_preset_by_name_a_changed_preset_or_keys_beside_the_strong_defaults(write):
    gentle, key = PRESETS["gentle"], "data.augmentation"
    sources = "sources: [{task: grid, root: a}, {task: esc10, root: b, augmentation: none}]"
    recipe = load_recipe(write(f"data: {{augmentation: gentle, {sources}}}"), [f"{key}.flip_probability=0.5"])
    assert recipe.data.augmentation == replace(gentle, flip_probability=0.5)
    assert recipe.data.sources[1].augmentation == PRESETS["none"]
    changed = load_recipe(write("seed: 1"), ["data.sources.0.augmentation={preset: gentle, brightness: 0.5}"])
    assert changed.data.sources[0].augmentation == replace(gentle, brightness=0.5)
    assert changed.data.augmentation == gentle, "by default"
    alone = load_recipe(write("seed: 1"), [f"{key}={{brightness: 0.5}}"])
    assert alone.data.augmentation == AugmentConfig(brightness=0.5)
