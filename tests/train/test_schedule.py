"""Learning rates by step and by part, parts that thaw, runs that stop when validation no longer improves."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.presets import preset
from mirasol.train import run
from mirasol.train.adapt import freeze
from mirasol.train.callbacks import MirasolCallback
from mirasol.train.efficiency import recompute_layers, repeated_layers
from mirasol.train.recipe_schema import (
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    ValidationRecipe,
)
from mirasol.train.record import open_run
from mirasol.train.run import check_reporters, training_arguments
from mirasol.train.schedule import is_stale
from mirasol.train.trainer import MirasolTrainer
from tests.train.toy import toy_recipe, train_toy

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
PARTS = ("video", "audio", "combiner", "temporal")


def small_model() -> MirasolForConditionalGeneration:
    torch.manual_seed(0)
    text = {"num_hidden_layers": 1, "vocab_size": 37}
    return MirasolForConditionalGeneration(
        preset("nano", **{f"{part}_config": SMALL for part in PARTS}, text_config=text)
    )


@pytest.fixture
def model():
    return small_model()


def trainer_of(network, tmp_path, **changes) -> MirasolTrainer:
    recipe = toy_recipe(tmp_path, **changes)
    return MirasolTrainer(
        recipe=recipe, run_dir=tmp_path, started=0.0, model=network, args=training_arguments(recipe, tmp_path)
    )


def rates(folder) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["learning_rate"] for line in lines if "learning_rate" in line]


def optimizer(**changes) -> OptimizerRecipe:
    return OptimizerRecipe(learning_rate=0.01, ema_decay=None, warmup_fraction=0.0, **changes)


def test_wsd_stays_and_falls_in_a_line_over_its_last_steps(tmp_path):
    recipe = optimizer(schedule="wsd", decay_fraction=0.5, final_learning_rate_fraction=0.1)
    train_toy(tmp_path, schedule=ScheduleRecipe(pretrain_epochs=0, finetune_epochs=4, batch_size=7), optimizer=recipe)
    assert rates(tmp_path) == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.01, 0.00775, 0.0055, 0.00325])


def test_constant_stays(tmp_path):
    train_toy(tmp_path, optimizer=optimizer(schedule="constant"))
    assert set(rates(tmp_path)) == {0.01}


def test_warmup_and_decay_longer_than_the_run_are_refused():
    with pytest.raises(ValueError, match="at most 1, found 0.3 and 0.8"):
        OptimizerRecipe(schedule="wsd", warmup_fraction=0.3, decay_fraction=0.8)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_part_learns_at_its_own_rate(model, tmp_path, name):
    """Every parameter is in one group, and the schedule multiplies each group's own rate."""
    trainer = trainer_of(
        model, tmp_path, optimizer=optimizer(name=name, part_rates={"video_encoder": 0.1, "language_model": 0.5})
    )
    trainer.create_optimizer_and_scheduler(10)
    factors = {id(p): group["lr"] / 0.01 for group in trainer.optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len([*model.parameters()])
    for key, parameter in model.named_parameters():
        tower, text = ".video_encoder." in key, "decoder" in key and "cross_" not in key and "time_" not in key
        assert factors[id(parameter)] == pytest.approx(0.1 if tower else 0.5 if text else 1.0), key
    trainer.lr_scheduler.lr_lambdas = [lambda step: 0.5 for _ in trainer.lr_scheduler.lr_lambdas]
    trainer.lr_scheduler.step()
    assert {round(g["lr"] / 0.01, 6) for g in trainer.optimizer.param_groups} == {0.05, 0.25, 0.5}


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_frozen_part_learns_from_its_epoch_on(model, tmp_path, name):
    freeze(model, ["video_encoder"])
    recipe = ModelRecipe(freeze=("video_encoder",), unfreeze_epoch=2)
    trainer = trainer_of(model, tmp_path, model=recipe, optimizer=optimizer(name=name))
    trainer.create_optimizer()
    trainer.sampler, trainer.train_dataset = SimpleNamespace(set_epoch=lambda epoch: None, num_clips=1), []
    tower = model.model.encoder.video_encoder.layers[0].mlp[0].weight
    moved = []
    for epoch in range(4):
        MirasolCallback(trainer).on_epoch_begin(None, TrainerState(epoch=float(epoch)), TrainerControl())
        before = tower.detach().clone()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        trainer.optimizer.step()
        moved.append(not torch.equal(tower, before))
    assert moved == [False, False, True, True]


def test_thawing_needs_a_frozen_part_and_one_process(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="names no part"):
        ModelRecipe(unfreeze_epoch=2)
    recipe = toy_recipe(tmp_path, model=ModelRecipe(freeze=("combiner",), unfreeze_epoch=2))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="works in one process, found 2"):
        check_reporters(recipe)


@pytest.mark.parametrize(
    ("values", "is_over"),
    [
        ([3, 5, 5, 4], True),
        ([3, 5, 4], False),
        ([5, 4, 6], False),
        ([], False),
        ([math.nan, 5, 5, 4], True),
        ([5, math.nan, math.nan], True),
        ([math.nan, 1, math.nan], False),
    ],
)
def test_patience_counts_validations_since_the_best(values, is_over):
    history = [{"loss": 1.0}, *({"eval_score": value} for value in values)]
    assert is_stale(history, "score", 2) is is_over
    assert not is_stale(history, "score", None)


def test_a_run_that_no_longer_improves_stops_and_stays_stopped(tmp_path, monkeypatch):
    """Weight decay alone makes the toy's metric, the sum of its weights, no better than at first by chance."""
    validation = ValidationRecipe(every_epochs=1, metric="mean_words", patience=1)
    schedule = ScheduleRecipe(pretrain_epochs=0, finetune_epochs=30, batch_size=14)
    result = train_toy(tmp_path, validation=validation, schedule=schedule, optimizer=optimizer(schedule="constant"))
    assert result.is_stale and 2 <= result.step < 30 and "validation.patience" in str(result)
    again = train_toy(tmp_path, validation=validation, schedule=schedule, optimizer=optimizer(schedule="constant"))
    assert again.step == result.step and again.is_stale


def test_a_service_without_its_package_is_refused_before_training(tmp_path, monkeypatch):
    recipe = toy_recipe(tmp_path, report_to=("trackio",))
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install trackio"):
        check_reporters(recipe)
    assert training_arguments(recipe, tmp_path).report_to == ["trackio"]
    assert training_arguments(Recipe(), tmp_path).report_to == []


def test_each_key_of_a_recipe_reaches_the_trainer(tmp_path):
    recipe = toy_recipe(
        tmp_path, seed=7, save_steps=11, logging_steps=13, data=DataRecipe(num_workers=3),
        schedule=ScheduleRecipe(pretrain_epochs=2, finetune_epochs=5, batch_size=6, gradient_accumulation_steps=4),
        optimizer=OptimizerRecipe(learning_rate=0.003, weight_decay=0.07, gradient_clip=0.4, warmup_fraction=0.3),
        validation=ValidationRecipe(metric="mean_x"),
    )  # fmt: skip
    found = training_arguments(recipe, tmp_path)
    expected = {
        "seed": 7, "save_steps": 11, "logging_steps": 13, "dataloader_num_workers": 3, "num_train_epochs": 7,
        "per_device_train_batch_size": 6, "gradient_accumulation_steps": 4, "learning_rate": 0.003,
        "weight_decay": 0.07, "max_grad_norm": 0.4, "warmup_steps": 0.3, "metric_for_best_model": "mean_x",
        "greater_is_better": True, "dataloader_drop_last": True, "use_cpu": True, "logging_nan_inf_filter": False,
    }  # fmt: skip
    assert {name: getattr(found, name) for name in expected} == expected


def test_a_run_is_seeded_before_its_parts_are_built_and_resumes_in_its_number_format(
    repository, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr("mirasol.train.build.build_parts", lambda recipe: {"drawn": torch.rand(()).item()})
    monkeypatch.setattr(
        run, "fit", lambda recipe, report, drawn: seen.append((drawn, recipe.bf16)) or open_run(recipe)
    )
    path, device = repository / "recipes" / "grid_nano.yaml", "device=cpu"
    for number, seed, bf16 in ((1, 7, True), (2, 7, False), (3, 8, False)):
        monkeypatch.setattr("mirasol.train.resolve.has_bf16", lambda device, bf16=bf16: bf16)
        run.train(path, [device, f"seed={seed}", f"output={tmp_path / str(number)}"])
    monkeypatch.setattr("mirasol.train.resolve.has_bf16", lambda device: False)
    run.train(path, [device, "seed=7", f"output={tmp_path / '1'}"])
    (one, first), (two, second), (three, _), again = seen
    assert one == two != three and (first, second) == (True, False) and again == (one, True)


def batch_of(model) -> dict[str, torch.Tensor]:
    config, generator = model.config, torch.Generator().manual_seed(1)
    size = config.image_size
    every = torch.arange(6)
    return {
        "pixel_values_videos": torch.randn(2, 3, 8, 3, size, size, generator=generator),
        "input_features": torch.randn(2, 3, config.num_mel_frames_per_chunk, config.num_mel_bins, generator=generator),
        "video_chunk_mask": torch.ones(2, 3, dtype=torch.bool), "audio_chunk_mask": torch.ones(2, 3, dtype=torch.bool),
        "chunk_times": torch.arange(6.0).reshape(1, 3, 2).expand(2, -1, -1),
        "video_chunk_index": every, "audio_chunk_index": every,
        "labels": torch.randint(3, 37, (2, 5), generator=generator),
    }  # fmt: skip


def outcome(model) -> list[torch.Tensor]:
    """The loss and all gradients."""
    model.zero_grad()
    torch.manual_seed(0)
    loss = model.train()(**batch_of(model)).loss
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("every", "expected"), [(1, [True] * 5), (2, [True, False, True, False, True])])
def test_recomputed_layers_give_the_same_gradients(model, every, expected):
    before = outcome(model)
    recompute_layers(model, every)
    assert [layer.gradient_checkpointing for layer in repeated_layers(model)] == expected
    assert all(map(torch.equal, outcome(model), before))


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients(repository):
    """In a process of its own, since the shape checks of the tests cannot be compiled."""
    code = """
from mirasol.train.efficiency import compile_layers
from tests.train.test_schedule import *
model = small_model()
before = outcome(model)
compile_layers(model, backend="eager")
for found, expected in zip(outcome(model), before, strict=True):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # sums in another order
assert torch._dynamo.utils.counters["frames"]["ok"] == 5, torch._dynamo.utils.counters
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
