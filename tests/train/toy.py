"""A toy of the model's contract that trains in milliseconds: what the trainer promises is not about the model."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.distributed import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from mirasol.model.modeling_mirasol_losses import next_chunk_pairs
from mirasol.train.checkpoint import STATE
from mirasol.train.recipe_schema import DataRecipe, OptimizerRecipe, Recipe, ScheduleRecipe, ValidationRecipe
from mirasol.train.run import TrainResult, fit
from mirasol.train.tokenizer import build_tokenizer

NUM_CLIPS, NUM_QUESTIONS, NUM_FEATURES, NUM_WORDS = 12, 3, 5, 7


class ToyConfig(PreTrainedConfig):
    model_type = "toy_of_mirasol"
    dropout: float = 0.3


class ToyModel(PreTrainedModel):
    """Clips and text rows differ in number (k questions a clip), dropout makes steps random, losses come apart."""

    config_class = ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.encoder = nn.Linear(NUM_FEATURES, 11)
        self.layers = nn.ModuleList([nn.Linear(11, 13), nn.Linear(13, 11)])
        self.norm = nn.LayerNorm(11)
        self.embed = nn.Embedding(NUM_WORDS, 11)
        self.head = nn.Linear(11, NUM_WORDS, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.weight = 10.0
        self.post_init()

    def set_objective(self, objective: str) -> None:
        self.weight = {"pretrain": 1.0, "finetune": 10.0}[objective]

    def forward(
        self,
        features,
        video_chunk_mask,
        audio_chunk_mask,
        decoder_input_ids,
        labels,
        num_items_in_batch=None,
        num_pairs_in_batch=None,
    ):
        pairs = next_chunk_pairs(video_chunk_mask).sum(dim=1)  # of each clip
        num_pairs = pairs.sum() if num_pairs_in_batch is None else num_pairs_in_batch[0]
        num_items = labels.ne(-100).sum() if num_items_in_batch is None else num_items_in_batch
        hidden = self.encoder(features)  # clip dim
        hidden = self.dropout(self.norm(hidden + self.layers[1](self.layers[0](hidden).relu())))
        rows = hidden.repeat_interleave(len(decoder_input_ids) // len(features), dim=0)
        logits = self.head(rows + self.embed(decoder_input_ids))
        text_loss = nn.functional.cross_entropy(logits.float(), labels.flatten(), reduction="sum") / num_items
        latent_loss = (pairs * hidden.float().square().mean(-1)).sum() / num_pairs
        video_loss = (pairs * (hidden.float().sum(-1) - features.sum(-1)).abs()).sum() / num_pairs
        loss = self.weight * text_loss + latent_loss + video_loss
        return ModelOutput(
            loss=loss, text_loss=text_loss, latent_loss=latent_loss, video_loss=video_loss, logits=logits
        )


class ToyClips:
    """Random clips that depend on (epoch, index), as augmentation does; one clip could not be read."""

    cache = SimpleNamespace(bad={"clip_99": "no video track"})

    def __init__(self, bad_index: int | None = None, bad_value: float = float("nan")):
        self.epoch, self.bad_index, self.bad_value = 0, bad_index, bad_value

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def row_id(self, index: int) -> str:
        return f"clip_{index}"

    def __len__(self) -> int:
        return NUM_CLIPS

    def __getitem__(self, index: int):
        if index < 0:  # a blank
            return torch.zeros(NUM_FEATURES), None
        if index == self.bad_index and self.epoch == 1:
            return torch.full((NUM_FEATURES,), self.bad_value), index
        generator = torch.Generator().manual_seed(100 * self.epoch + index)
        return torch.randn(NUM_FEATURES, generator=generator), index


def collate(samples):
    features = torch.stack([features for features, _ in samples])
    answers = torch.tensor([-100 if index is None else index % NUM_WORDS for _, index in samples])
    questions = torch.arange(NUM_QUESTIONS).repeat(len(samples))
    labels = answers.repeat_interleave(NUM_QUESTIONS)
    lengths = torch.tensor([0 if index is None else 2 + index % 3 for _, index in samples])
    is_answered = questions < lengths.repeat_interleave(NUM_QUESTIONS) - 1  # clips ask and last unequally
    mask = torch.arange(4) < lengths[:, None]
    return {
        "features": features,
        "video_chunk_mask": mask,
        "audio_chunk_mask": torch.zeros_like(mask),
        "decoder_input_ids": questions,
        "labels": labels.where(is_answered, -100)[:, None],  # row token
    }


def toy_recipe(output: Path, **changes) -> Recipe:
    recipe = Recipe(
        output=str(output),
        device="cpu",
        bf16=False,
        save_steps=2,
        data=DataRecipe(num_workers=0),
        schedule=ScheduleRecipe(pretrain_epochs=1, finetune_epochs=2, batch_size=4),
        optimizer=OptimizerRecipe(learning_rate=1e-2, ema_decay=0.9),
        validation=ValidationRecipe(every_epochs=1, metric="mean_words"),
    )
    return recipe.model_copy(update=changes)


def train_toy(
    output: Path,
    *,
    kill_at_step: int | None = None,
    kill_by: int = signal.SIGKILL,
    bad_index: int | None = None,
    data: dict | None = None,
    dropout: float = 0.3,
    batch_size: int = 4,
    stop_in_validation: int | None = None,
    report: Callable | None = None,
    **changes,
) -> TrainResult:
    """Trains the toy, in epoch 1 with NaN for the clip `bad_index`.

    The process sends itself `kill_by` in the forward of step `kill_at_step`, or SIGTERM in the validation of this
    number."""
    recipe = toy_recipe(output, **changes)
    if "schedule" not in changes:
        recipe = recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"batch_size": batch_size})})
    torch.manual_seed(recipe.seed)
    model = ToyModel(ToyConfig(dropout=dropout))
    steps = 0

    def kill(*_):
        nonlocal steps
        steps += 1
        if steps == kill_at_step:
            os.kill(os.getpid(), kill_by)

    model.register_forward_hook(kill)

    validated = 0

    def validate(model) -> dict[str, float]:
        nonlocal validated
        validated += 1
        torch.rand(7)  # validation may draw random numbers; training must not notice
        if validated == stop_in_validation:
            os.kill(os.getpid(), signal.SIGTERM)
            return {}
        weights = torch.cat([parameter.flatten() for parameter in model.parameters()])
        return {"mean_words": weights.double().sum().item()}

    return fit(
        recipe,
        model=model,
        processor=build_tokenizer(["which color is named?"], vocab_size=300),
        train_dataset=ToyClips(bad_index),
        collator=collate,
        validate=validate,
        data=data,
        report=report,
    )


def saved_state(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by its key, whole."""
    state = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in checkpoint.FileSystemReader(folder / STATE).read_metadata().state_dict_metadata.items()
    }
    checkpoint.load(state, checkpoint_id=folder / STATE)
    return state


if __name__ == "__main__":
    changes = (argument.partition("=") for argument in sys.argv[2:])
    train_toy(Path(sys.argv[1]), **{name: json.loads(value) for name, _, value in changes})
