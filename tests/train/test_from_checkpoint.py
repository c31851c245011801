"""Training from a checkpoint: keys that the recipe leaves out are inherited, keys that it names are changed."""

import json
import subprocess
import sys

import pytest
import torch

from mirasol.chunks import MirasolProcessor
from mirasol.train.build import build_parts
from mirasol.train.export import export, write_card
from mirasol.train.recipe import load_recipe
from mirasol.train.record import open_run, written_bf16
from mirasol.train.resolve import resolve, sizes_of
from mirasol.train.run import started_from


@pytest.fixture
def recipe(repository, untrained, tmp_path):
    """The recipe of grid_nano's data without its processor, from a checkpoint, with these changes."""
    path = tmp_path / "recipe.yaml"
    root = repository / "data" / "grid_s1"
    path.write_text(f"model: {{checkpoint: {untrained}}}\ndata: {{sources: [{{task: grid, root: {root}}}]}}\n")

    def make(*overrides: str):
        few = ("data.max_train_clips=2", "validation.max_clips=2", f"data.cache={tmp_path / 'cache'}")
        return load_recipe(path, [*few, *overrides])

    return make


@pytest.mark.slow
def test_the_command_loads_the_checkpoint_too(untrained):
    code = "import sys; sys.argv = ['mirasol']; from mirasol.train.resolve import saved_processor; "
    run = subprocess.run(
        [sys.executable, "-c", f"{code}saved_processor({str(untrained)!r})"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-500:]


def test_sizes_that_are_left_out_are_the_checkpoints(recipe, untrained):
    saved = sizes_of(MirasolProcessor.from_pretrained(untrained))
    assert saved.crop_fraction == 0.41 and saved.max_chunks == 10
    assert resolve(recipe()).processor == saved
    more = f"processor.vocab_size={saved.vocab_size + 1}"  # only a most for a new tokenizer
    assert resolve(recipe(more)).processor == saved


@pytest.mark.parametrize(("capabilities", "expected"), [({"avx512_bf16": True}, True), ({"avx2": True}, False)])
def test_bf16_is_chosen_by_the_hardware_and_a_run_keeps_it(recipe, tmp_path, monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve(recipe("device=cpu")).bf16 is expected
    assert resolve(recipe("device=cpu", f"bf16={str(not expected).lower()}")).bf16 is not expected
    run = recipe("device=cpu", f"output={tmp_path / 'run'}")
    assert written_bf16(run) is None
    open_run(resolve(run).model_copy(update={"bf16": not expected}))
    assert written_bf16(run) is not expected


def test_grid_and_crop_can_be_changed_and_reach_the_exported_processor(recipe, tmp_path):
    parts = build_parts(resolve(recipe("processor.max_chunks=7", "processor.crop_fraction=0.8")))
    parts["processor"].save_pretrained(tmp_path / "saved")
    saved = MirasolProcessor.from_pretrained(tmp_path / "saved")
    assert (saved.max_chunks, saved.image_processor.crop) == (7, (0.8, 0.5, 0.64))
    assert parts["train_dataset"].processor.max_chunks == 7


def test_a_source_has_its_own_augmentation_and_conditions_or_else_the_shared_ones(recipe):
    second = "{task: fsdd, root: b, conditions: [sound], augmentation: {margin: 2}}"
    sources = f"data.sources=[{{task: grid, root: a}}, {second}]"
    resolved = resolve(recipe(sources, "data.augmentation.margin=3", "validation.conditions=[both]"))
    shared, own = resolved.data.sources
    assert (shared.augmentation.margin, shared.conditions) == (3, ("both",))
    assert (own.augmentation.margin, own.conditions) == (2, ("sound",))


def test_each_key_of_a_source_reaches_its_clips_and_its_validation(recipe, repository):
    root = repository / "data" / "grid_s1"
    grid = f"task: grid, root: {root}"
    one = f"{{{grid}, questions_per_clip: 2, clips_per_epoch: 5, balance: answer, conditions: [sound]}}"
    two = f"{{{grid}, val_split: test, questions_per_clip: 3, augmentation: none}}"
    more = ("validation.batch_size=3", "validation.max_clips=1", "validation.samples=4", "seed=9", "data.cache=null")
    run = resolve(recipe(f"data.sources=[{one}, {two}]", *more))
    parts = build_parts(run)
    first, second = parts["train_dataset"].parts
    assert [(len(each.rows), len(each), each.questions_per_clip, each.seed) for each in (first, second)] == [
        (2, 5, 2, 9), (2, 2, 3, 9)
    ]  # fmt: skip
    assert (first._weights is None, second._weights is None) == (False, True)
    assert (first.augment, second.augment) == (run.data.augmentation, run.data.sources[1].augmentation)
    validated = [part.keywords for part in parts["validate"].parts.values()]
    assert [each["conditions"] for each in validated] == [("sound",), run.validation.conditions]
    assert {each["batch_size"] for each in validated} == {3} and parts["validate"].num_samples == 4
    assert all(len(each["rows"]) == 1 for each in validated)
    assert validated[0]["rows"] != validated[1]["rows"]
    assert set(parts["data"]) == {f"{split} of grid below {root}" for split in ("train", "val", "test")}


def test_a_source_is_not_trained_on_what_validates_another(recipe, repository):
    root = repository / "data" / "grid_s1"
    sources = f"[{{task: grid, root: {root}}}, {{task: grid, root: {root}, train_split: val, val_split: test}}]"
    with pytest.raises(ValueError, match="in val than in train, found [0-9]+ of [0-9]+ in both below .*grid_s1"):
        build_parts(resolve(recipe(f"data.sources={sources}", "validation.max_clips=9", "data.cache=null")))


def test_a_resumed_run_has_the_tokens_it_began_with(recipe, tmp_path):
    """Another checkpoint, or other texts, would give the same words other ids."""
    run = resolve(recipe(f"output={tmp_path / 'run'}"))
    processor = build_parts(run)["processor"]
    began_with = processor.tokenizer.model_max_length - 1  # any difference that its tokenizer can have
    processor.tokenizer.model_max_length = began_with
    open_run(run, processor)
    assert build_parts(run)["processor"].tokenizer.model_max_length != began_with, "nothing was trained yet"
    (tmp_path / "run" / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    assert build_parts(run)["processor"].tokenizer.model_max_length == began_with


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("processor.vocab_size=9", "processor.vocab_size is 9, but the tokenizer of .* is kept: leave the key out"),
        ("processor.crop_fraction=1.5", "crop_fraction is a part .* but it is 1.5"),
        (
            "model.checkpoint=runs/nothing/best",
            "model.checkpoint expects a folder, found nothing at runs/nothing/best",
        ),
        ("processor.image_size=16", "agree on image_size, but the processor has 16 and the model 32"),
    ],
)
def test_what_the_weights_cannot_follow_is_refused(recipe, override, message):
    with pytest.raises(ValueError, match=message):
        build_parts(resolve(recipe(override)))


def test_windows_of_a_checkpoint_can_be_changed_and_its_weights_stay(recipe):
    windows = [f"model.overrides.{part}_config.window_chunks={size}" for part, size in (("temporal", 3), ("text", 5))]
    changed, plain = (build_parts(resolve(recipe(*more)))["model"] for more in (windows, ()))
    assert (changed.config.temporal_config.window_chunks, changed.config.text_config.window_chunks) == (3, 5)
    assert plain.config.temporal_config.window_chunks is None
    weights = plain.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in changed.state_dict().items())


def test_another_combiner_is_new_and_counted_and_the_rest_is_the_checkpoints(recipe):
    override = "model.overrides.combiner_config.combiner_type=ttm"
    with pytest.warns(
        UserWarning, match=r"\d+ weights are initialised, because .* lacks them: model.encoder.combiner"
    ):
        changed = build_parts(resolve(recipe(override)))["model"]
    weights = build_parts(resolve(recipe()))["model"].state_dict()
    kept = {name: value for name, value in changed.state_dict().items() if ".combiner." not in name}
    assert len(kept) > 100 and all(torch.equal(value, weights[name]) for name, value in kept.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.overrides.text_config.hidden_size=64", "keep the shapes of the weights of .*, found"),
        ("model.overrides.temporal_config.window_chunk=3", "nearest valid key is .*window_chunks"),
        ("model.overrides.temporal_config.window_chunks=0", "window_chunks"),
    ],
)
def test_an_override_that_a_checkpoint_cannot_follow_is_refused(recipe, override, message):
    with pytest.raises(ValueError, match=message):
        build_parts(resolve(recipe(override)))


def test_the_parts_of_an_exported_model_do_not_name_the_format_it_was_loaded_in(recipe, tmp_path):
    parts = build_parts(resolve(recipe()))
    export(parts["model"], parts["processor"], tmp_path / "best", recipe=recipe(), record={})
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert [name for name, value in config.items() if isinstance(value, dict) and "dtype" in value] == []


def test_the_card_names_every_task_and_leaves_out_counts_of_bad_clips(recipe, tmp_path):
    tasks = "data.sources=[{task: grid, root: G}, {task: fsdd, root: FSDD}, {task: esc10, root: ESC10}]"
    write_card(tmp_path, recipe(tasks), {"validation": {"grid_words_both": 0.5, "grid_bad_clips_both": 0.0}})
    card = (tmp_path / "README.md").read_text()
    assert "# Mirasol, trained on grid, fsdd and esc10" in card
    assert "| grid_words | 0.5000 |" in card and "bad_clips" not in card


def test_the_card_tells_what_made_the_checkpoint_it_started_from(recipe, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    write_card(first, recipe(), {"commit": "abc", "command": "train first", "train_minutes": 2.5, "packages": {}})
    write_card(second, recipe(), {"commit": "def", "started_from": started_from(str(first))})
    kept = json.loads((second / "training.json").read_text())["started_from"]
    assert kept["commit"] == "abc" and "packages" not in kept
    assert "Started from: commit abc" in (second / "README.md").read_text()
    assert "Started from" not in (first / "README.md").read_text()
    assert started_from(None) is None and started_from(str(tmp_path)) is None
