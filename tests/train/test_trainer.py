"""What the trainer adds: every loss apart, phases, averaged weights, no decay where none belongs, the best kept."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState

from mirasol.data.sampler import EpochSampler
from mirasol.train.callbacks import MirasolCallback
from mirasol.train.optimizer import BatchedMuon
from mirasol.train.recipe import load_recipe
from mirasol.train.recipe_schema import OptimizerRecipe, ScheduleRecipe
from mirasol.train.record import find_checkpoints, recipe_hash, step_of
from mirasol.train.run import training_arguments
from mirasol.train.sharded_trainer import _warm_average
from mirasol.train.trainer import MirasolTrainer, sampler_of
from tests.model.tiny import media, questions, tiny_model
from tests.train.toy import NUM_CLIPS, ToyClips, ToyConfig, ToyModel, collate, saved_state, toy_recipe, train_toy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train_toy(folder)


def toy_trainer(folder, model=None, **changes):
    recipe = toy_recipe(folder, **changes)
    return MirasolTrainer(
        recipe=recipe,
        run_dir=folder,
        started=0.0,
        model=model or ToyModel(ToyConfig()),
        args=training_arguments(recipe, folder),
        train_dataset=ToyClips(),
        data_collator=collate,
    )


@pytest.fixture
def trainer(tmp_path):
    return toy_trainer(tmp_path)


def lines_of(folder, key):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


def test_every_loss_is_logged_apart_at_every_step_and_adds_up(run):
    lines = lines_of(run[0], "text_loss")
    assert [line["step"] for line in lines] == list(range(1, 10))
    for line in lines:
        text_weight = 1.0 if line["objective_is_pretrain"] else 10.0
        parts = text_weight * line["text_loss"] + line["latent_loss"] + line["video_loss"]
        assert line["loss"] == pytest.approx(parts, rel=1e-6)  # float32 sums in another order
        assert 0 <= line["loader_wait_share"] <= 1 and line["clips_per_second"] > 0


def test_pretraining_comes_first_and_finetuning_after(run):
    assert [line["objective_is_pretrain"] for line in lines_of(run[0], "text_loss")] == [1.0] * 3 + [0.0] * 6


def test_losses_reach_tensorboard_in_the_run_folder(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run[0] / "tensorboard")).Reload()
    assert {"train/loss", "train/text_loss", "train/latent_loss", "train/video_loss"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/text_loss")] == list(range(1, 10))


def test_the_run_folder_says_what_ran(run):
    folder, result = run
    (launch,) = json.loads((folder / "environment.json").read_text())
    assert {"command", "commit", "packages", "hardware", "started"} <= set(launch)
    assert load_recipe(folder / "recipe.yaml") == toy_recipe(folder)
    assert result.num_bad_clips == 1 and "1 unreadable clip(s) left out" in str(result)


def test_the_resolved_recipe_is_there_before_the_first_batch(tmp_path, monkeypatch):
    def refuse(samples):
        assert (tmp_path / "recipe.yaml").is_file() and (tmp_path / "environment.json").is_file()
        raise InterruptedError

    monkeypatch.setattr("tests.train.toy.collate", refuse)
    with pytest.raises(InterruptedError):
        train_toy(tmp_path)


def test_the_best_validation_is_exported_in_bf16_with_its_card(run):
    folder, result = run
    best = max(lines_of(folder, "eval_mean_words"), key=lambda line: line["eval_mean_words"])
    assert result.best_metric == best["eval_mean_words"]
    training = json.loads((folder / "best" / "training.json").read_text())
    assert training["step"] == best["step"] and training["recipe_sha256"] == recipe_hash(toy_recipe(folder))
    assert training["validation"]["mean_words"] == best["eval_mean_words"]
    model = ToyModel.from_pretrained(folder / "best")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    card = (folder / "best" / "README.md").read_text()
    assert (
        training["recipe_sha256"] in card
        and training["commit"] in card
        and f"mean_words: {best['eval_mean_words']:.4f}" in card
    )


def test_only_matrices_of_linear_layers_decay(trainer):
    layers = {"encoder.weight", "layers.0.weight", "layers.1.weight"}
    assert set(trainer.get_decay_parameter_names(trainer.model)) == {*layers, "head.weight"}
    tied = ToyModel(ToyConfig())
    tied.head.weight = tied.embed.weight
    assert set(trainer.get_decay_parameter_names(tied)) == layers


@pytest.mark.parametrize(("name", "sizes"), [("muon", [2, 2, 6]), ("adamw", [4, 6])])
def test_every_parameter_is_in_one_group_and_follows_the_schedule(tmp_path, name, sizes):
    trainer = toy_trainer(tmp_path, optimizer=OptimizerRecipe(name=name, weight_decay=0.03))
    optimizer = trainer.create_optimizer()
    groups = optimizer.param_groups
    assert [len(group["params"]) for group in groups] == sizes
    assert [group["weight_decay"] for group in groups] == [0.03] * (len(sizes) - 1) + [0.0]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in trainer.model.parameters())
    trainer.create_scheduler(num_training_steps=100)
    for _ in range(3):
        optimizer.step()
        trainer.lr_scheduler.step()
    rates = {
        group["lr"] for part in getattr(optimizer, "parts", {"": optimizer}).values() for group in part.param_groups
    }
    assert list(rates) == pytest.approx([3 / 5 * trainer.recipe.optimizer.learning_rate])  # 5 of 100 steps are warmup


def test_batched_muon_takes_the_steps_of_torchs_own(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # torch iterates in bfloat16
    torch.manual_seed(0)
    shapes = [(5, 7), (7, 5), (5, 7), (11, 3)]  # one shape twice, tall and wide
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    settings = {"lr": 0.01, "weight_decay": 0.3}
    optimizers = [BatchedMuon(ours, **settings), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)]
    for _ in range(3):
        for mine, other in zip(ours[:-1], theirs[:-1], strict=True):  # the last one has no gradient
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)  # products in another order
    assert torch.equal(ours[-1], theirs[-1])


def test_muon_leaves_a_matrix_alone_whose_tower_saw_nothing():
    torch.manual_seed(0)
    rested, steady = (nn.Parameter(torch.randn(5, 7)) for _ in range(2))
    optimizer = BatchedMuon([rested, steady], lr=0.01, weight_decay=0.3)
    rested.grad, steady.grad = torch.randn(5, 7), torch.randn(5, 7)
    optimizer.step()
    before = [each.detach().clone() for each in (rested, steady, optimizer.state[rested]["momentum_buffer"])]
    rested.grad = torch.zeros(5, 7)
    optimizer.step()
    assert torch.equal(rested, before[0]) and not torch.equal(steady, before[1])
    assert torch.equal(optimizer.state[rested]["momentum_buffer"], before[2])


def test_the_average_is_the_one_written_by_hand():
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    average = AveragedModel(model, multi_avg_fn=_warm_average(0.6))
    expected = None
    for update in range(11):
        with torch.no_grad():
            model.weight.add_(torch.randn(3, 2))
        average.update_parameters(model)
        decay = min(0.6, (1 + update) / (10 + update))
        weight = model.weight.detach()
        expected = weight.clone() if expected is None else decay * expected + (1 - decay) * weight
    torch.testing.assert_close(average.module.weight.detach(), expected)


def test_the_averaged_weights_follow_every_step_with_the_decay_of_the_recipe(tmp_path):
    trainer = toy_trainer(tmp_path, optimizer=OptimizerRecipe(learning_rate=1e-2, ema_decay=0.3))
    expected: dict[str, torch.Tensor] = {}

    class ByHand(TrainerCallback):
        updates = 0

        def on_step_end(self, args, state, control, model=None, **kwargs):
            decay = min(0.3, (1 + self.updates) / (10 + self.updates))
            for name, weight in model.named_parameters():
                now = weight.detach().clone()
                expected[name] = now if self.updates == 0 else decay * expected[name] + (1 - decay) * now
            self.updates += 1

    trainer.add_callback(ByHand())
    trainer.train()
    averaged = trainer.best_weights
    assert averaged is trainer.ema.module and averaged is not trainer.model
    for name, weight in averaged.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name])
        assert not torch.equal(weight, dict(trainer.model.named_parameters())[name])


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_betas_epsilon_and_clipping_of_the_recipe_reach_the_step(tmp_path, name):
    optimizer = OptimizerRecipe(name=name, betas=(0.7, 0.8), epsilon=1e-5, gradient_clip=0.01)
    trainer = toy_trainer(tmp_path, optimizer=optimizer)
    norms = []

    class Norms(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
            norms.append(torch.cat(gradients).norm().item())

    trainer.add_callback(Norms())
    trainer.train()
    assert len(norms) == 9 and all(norm == pytest.approx(0.01, rel=1e-3) for norm in norms)
    with_betas = [group for group in trainer.optimizer.param_groups if "betas" in group]
    assert with_betas
    assert {(group["betas"], group["eps"]) for group in with_betas} == {((0.7, 0.8), 1e-5)}


def test_the_learning_rate_warms_up_and_falls_to_the_fraction_of_the_recipe(tmp_path):
    optimizer = OptimizerRecipe(learning_rate=0.01, warmup_fraction=1 / 3, final_learning_rate_fraction=0.2)
    train_toy(tmp_path, optimizer=optimizer)
    cosine = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    expected = [0.01 * step / 3 for step in range(3)] + [0.01 * (0.2 + 0.8 * value) for value in cosine]
    assert [line["learning_rate"] for line in lines_of(tmp_path, "learning_rate")] == pytest.approx(expected)


def test_order_augmentation_and_objective_follow_the_epoch_of_a_resumed_run(trainer):
    trainer.get_train_dataloader()
    (callback,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, MirasolCallback)]
    for epoch, weight in ((0.5, 1.0), (2.25, 10.0)):
        callback.on_epoch_begin(trainer.args, TrainerState(epoch=epoch), TrainerControl())
        assert trainer.sampler.epoch == trainer.train_dataset.epoch == int(epoch)
        assert trainer.model.weight == weight


def test_an_epoch_is_of_whole_steps_in_the_order_of_the_recipes_seed(tmp_path):
    def order(seed: int, accumulation: int) -> list[int]:
        schedule = ScheduleRecipe(batch_size=4, gradient_accumulation_steps=accumulation)
        return list(sampler_of(ToyClips(None), toy_recipe(tmp_path, seed=seed, schedule=schedule)))

    assert order(3, 1) == list(EpochSampler([NUM_CLIPS], 4, 3)) != order(0, 1)
    assert [len(order(0, accumulation)) for accumulation in (1, 2, 5)] == [12, 16, 20]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_clips(tmp_path, accumulation):
    schedule = ScheduleRecipe(
        pretrain_epochs=1, finetune_epochs=2, batch_size=3, gradient_accumulation_steps=accumulation
    )
    sampler = EpochSampler([NUM_CLIPS], 3, seed=0)
    sampler.set_epoch(1)
    order = list(sampler)
    bad = order[5]  # in the second batch of the second epoch
    batch = ", ".join(f"clip_{index}" for index in order[3:6])
    taken = 4 + 1 if accumulation == 1 else 2
    message = rf"found a loss of nan at step {taken + 1} \(epoch 2\) on the clips {batch}\. That step was not taken"
    with pytest.raises(ValueError, match=message):
        train_toy(tmp_path, bad_index=bad, schedule=schedule, save_steps=1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == taken
    assert all(value is not None for line in lines for value in line.values())
    *_, checkpoint = find_checkpoints(tmp_path / "checkpoints")
    assert step_of(checkpoint) == taken
    for weights in (saved_state(checkpoint), load_file(tmp_path / "best" / "model.safetensors")):
        assert all(weight.isfinite().all() for weight in weights.values())
    told = json.loads((tmp_path / "not_finite.json").read_text())
    assert told["step"] == taken + 1 and told["batches"][-1] == {
        "process": 0, "loss": "NaN", "clips": batch.split(", ")
    }  # fmt: skip


def test_weights_that_are_not_finite_are_neither_validated_nor_saved(trainer):
    trainer.validate = lambda model: {"mean_words": 1.0}
    with torch.no_grad():
        trainer.model.norm.bias[3] = float("inf")
    with pytest.raises(ValueError, match="found NaN or infinity in 1 of them after step 0, norm.bias first"):
        trainer._save_checkpoint(trainer.model, None)
    trainer.ema = None
    with pytest.raises(ValueError, match="Expected finite weights"):
        trainer.evaluate()


def losses(folder):
    names = ("loss", "text_loss", "latent_loss", "video_loss", "grad_norm")
    return torch.tensor([[line[name] for name in names] for line in lines_of(folder, "loss")])


@pytest.fixture(scope="module")
def large_batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    train_toy(folder, dropout=0.0, batch_size=14)
    assert losses(folder).shape == (3, 5)
    return losses(folder)


# Tolerances: sums of floats in another order, three steps deep.


def test_accumulated_steps_equal_one_large_batch(large_batch, tmp_path):
    schedule = ScheduleRecipe(pretrain_epochs=1, finetune_epochs=2, batch_size=7, gradient_accumulation_steps=2)
    train_toy(tmp_path, dropout=0.0, schedule=schedule)
    torch.testing.assert_close(losses(tmp_path), large_batch, rtol=1e-4, atol=1e-5)


def test_gradients_of_unequal_micro_batches_are_those_of_one_large_batch(tmp_path):
    """The step of three clips of unequal answers and lengths, in two micro-batches, against one by hand."""
    # Left out: what is a statistic of a part, and what is random.
    off = {"variance_weight": 0.0, "covariance_weight": 0.0, "combined_mask_probability": 0.0}
    model = tiny_model(temporal_config=off)
    large = media(batch=3) | questions(rows=3)
    large["labels"][1:, 8:] = -100
    for name in ("video_chunk_mask", "audio_chunk_mask"):
        large[name][1, 2:] = large[name][2, 3:] = False
    parts = [{name: value[rows] for name, value in large.items()} for rows in (slice(0, 1), slice(1, 3))]
    model.zero_grad()
    model.train()
    model(**large).loss.backward()
    reached = [(name, parameter) for name, parameter in model.named_parameters() if parameter.grad is not None]
    expected = {name: parameter.grad.clone() for name, parameter in reached}

    model.zero_grad()
    trainer = toy_trainer(tmp_path, model=model, schedule=ScheduleRecipe(gradient_accumulation_steps=2))
    batches, num_items = trainer.get_batch_samples(iter(parts), 2, torch.device("cpu"))
    assert num_items == large["labels"].ne(-100).sum()
    loss = sum(trainer.training_step(model, batch, num_items) for batch in batches)
    for name, gradient in expected.items():
        difference = (model.get_parameter(name).grad - gradient).norm()
        assert difference <= 1e-4 * gradient.norm(), name  # sums of floats in another order
    torch.testing.assert_close(loss, model(**large).loss.detach(), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_two_processes_equal_one_large_batch(large_batch, tmp_path, repository):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "tests.train.toy", str(tmp_path), "dropout=0.0", "batch_size=7"]
    environment = {**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(losses(tmp_path), large_batch, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "best" / "model.safetensors").is_file() and len(find_checkpoints(tmp_path / "checkpoints")) == 2
