"""A batch in parts, micro-batches or ranks, gives the losses, gradients and running mean of the whole."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import Trainer, TrainingArguments

from mirasol.model.modeling_mirasol_losses import count_targets
from tests.model.tiny import media, questions, tiny_config, tiny_model

ROWS = 4
NO_SPREAD = {"variance_weight": 0.0, "covariance_weight": 0.0, "combined_mask_probability": 0.0}
PARTS = ("loss", "text_loss", "latent_loss", "video_loss", "audio_loss")
# reason for tolerances in this file: one clip at a time sums in another order
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def batch(equal=False):
    """Four clips with their questions; unequal answers, lengths and gaps unless `equal`."""
    inputs = {**media(batch=ROWS), **questions(rows=ROWS)}
    if not equal:
        for row, (video, audio, tokens) in enumerate([(5, 5, 7), (3, 5, 1), (4, 0, 3), (2, 1, 5)]):
            inputs["video_chunk_mask"][row, video:] = False
            inputs["audio_chunk_mask"][row, audio:] = False
            inputs["labels"][row, : -tokens or None] = -100
    return inputs


def gradients(model, inputs, parts=1, **totals):
    """(gradients, losses) summed over the rows in so many parts."""
    model.zero_grad()
    losses = dict.fromkeys(PARTS, 0.0)
    for part in torch.arange(ROWS).chunk(parts):
        output = model(**{name: value[part] for name, value in inputs.items()}, **totals)
        output.loss.backward()
        losses = {name: losses[name] + output[name].item() for name in PARTS}
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, losses


def assert_equal(found, expected):
    assert found[1] == pytest.approx(expected[1], rel=1e-4)
    assert set(found[0]) == set(expected[0])
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)


def test_targets_are_counted_by_hand():
    counts = count_targets(*(batch()[name] for name in ("labels", "video_chunk_mask", "audio_chunk_mask")))
    # clips of (video, audio) chunks (5, 5), (3, 5), (4, 0), (2, 1): one pair less than chunks
    assert counts.tolist() == [7 + 1 + 3 + 5, 4 + 4 + 3 + 1, 4 + 2 + 3 + 1, 4 + 4 + 0 + 0]


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up_to_the_batch(parts):
    model, inputs = tiny_model(temporal_config=NO_SPREAD), batch()
    counts = count_targets(inputs["labels"], inputs["video_chunk_mask"], inputs["audio_chunk_mask"])

    found = gradients(model, inputs, parts, num_items_in_batch=counts[0], num_pairs_in_batch=counts[1:])

    assert_equal(found, gradients(model, inputs))


def test_spread_terms_of_parts_are_weighted_by_their_pairs():
    """They are statistics of a part; four equal parts weigh a quarter each, not one each."""
    model = tiny_model()
    inputs = {name: value[:1].repeat_interleave(ROWS, dim=0) for name, value in batch().items()}
    alone = model(**{name: value[:1] for name, value in inputs.items()}).latent_loss.item()
    counts = count_targets(inputs["labels"], inputs["video_chunk_mask"], inputs["audio_chunk_mask"])

    for totals in ({}, {"num_pairs_in_batch": counts[1:]}):
        _, losses = gradients(model, inputs, ROWS, num_items_in_batch=counts[0], **totals)
        assert losses["latent_loss"] == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("watched", [False, True])
def test_a_batch_without_any_label_has_no_text_loss_and_can_be_trained(watched):
    model, inputs = tiny_model(), batch()
    inputs["labels"][:] = -100
    if watched:
        media_of = {name: inputs.pop(name) for name in media()}
        with torch.no_grad():
            inputs["encoder_outputs"] = model.get_encoder()(**media_of)

    for totals in ({}, {"num_items_in_batch": torch.tensor(0)}):
        model.zero_grad()
        output = model(**inputs, **totals)
        output.loss.backward()
        assert output.text_loss == 0
        assert output.text_loss.requires_grad
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        assert (output.loss > 0) == (not watched)


class Clips(torch.utils.data.Dataset):
    def __init__(self, inputs):
        self.inputs = inputs

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return {name: value[row] for name, value in self.inputs.items()}


def trained_by_trainer(folder, inputs, size, steps, **options):
    """The parameters after one step of plain SGD by transformers' own Trainer."""
    model = tiny_model(temporal_config=NO_SPREAD, **options)
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=1, max_grad_norm=0,
        learning_rate=0.01, lr_scheduler_type="constant", optim="sgd", use_cpu=True, remove_unused_columns=False,
        save_strategy="no", disable_tqdm=True, label_names=["labels"], logging_strategy="no",
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=Clips(inputs)).train()
    return model


@pytest.mark.parametrize(
    ("equal", "options"), [(True, {}), (False, {"latent_weight": 0.0, "video_weight": 0.0, "audio_weight": 0.0})],
    ids=["equal answers", "text alone"],
)  # fmt: skip
def test_plain_trainer_accumulates_to_the_large_batch(tmp_path, equal, options):
    """All losses where the parts have equally many tokens; the text loss whatever they have."""
    inputs = batch(equal)
    start = dict(tiny_model(temporal_config=NO_SPREAD).named_parameters())
    expected = dict(trained_by_trainer(tmp_path, inputs, ROWS, 1, **options).named_parameters())
    found = dict(trained_by_trainer(tmp_path, inputs, 1, ROWS, **options).named_parameters())

    moved = 0.0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)
        moved = max(moved, (value - start[name]).abs().max().item())
    assert moved > 1e-2


def test_running_mean_stays_in_fp32_and_arrives_in_bf16(tmp_path):
    """A step of 1 % of a value is lost in bf16's eight bits at 0.8."""
    model = tiny_model(temporal_config={"combined_mask_probability": 0.0}).to(torch.bfloat16).train()
    encoder, clips = model.get_encoder(), media()
    for _ in range(600):
        combined = torch.ones(2, 5, *encoder.feature_mean.shape, dtype=torch.bfloat16)
        encoder._update_feature_mean(combined, clips["video_chunk_mask"])

    assert encoder.feature_mean.dtype == torch.float32
    assert (encoder.feature_mean > 0.99).all()
    model.save_pretrained(tmp_path)
    for dtype in (torch.bfloat16, torch.float32):
        again = type(model).from_pretrained(tmp_path, dtype=dtype).get_encoder()
        assert again.feature_mean.dtype == torch.float32
        assert torch.equal(again.feature_mean, encoder.feature_mean)
    with torch.device("meta"):
        empty = type(model)(tiny_config()).to(torch.bfloat16)
    assert empty.to_empty(device="cpu").get_encoder().feature_mean.dtype == torch.float32


def test_running_mean_of_a_frozen_encoder_stands_still():
    model = tiny_model().train()
    encoder = model.get_encoder().requires_grad_(False)
    model(**media(), **questions()).loss.backward()
    assert (encoder.feature_mean == 0).all()

    encoder.combiner.requires_grad_(True)
    with torch.no_grad():
        model(**media(), **questions())
    assert (encoder.feature_mean == 0).all()
    nothing = media()
    nothing["video_chunk_mask"][:] = nothing["audio_chunk_mask"][:] = False
    encoder.feature_mean.fill_(0.5)
    encoder(**nothing)
    assert (encoder.feature_mean == 0.5).all()  # nor does a batch without a real chunk move it
    encoder(**media())
    assert (encoder.feature_mean != 0.5).all()


RANKS = """
import os, sys, torch
from tests.model.test_parts import *
inputs = batch(equal=True)
inputs["video_chunk_mask"][0, 3:] = inputs["audio_chunk_mask"][0, 3:] = False  # ranks hold unequally many chunks
inputs["labels"][2, -3:] = -100
rank = int(os.environ.get("RANK", 0)); size = ROWS // int(os.environ.get("WORLD_SIZE", 1))
model = trained_by_trainer(sys.argv[1], inputs, size, 1, latent_weight=0.0, video_weight=0.0, audio_weight=0.0)
state = {**dict(model.named_parameters()), "mean": model.get_encoder().feature_mean}
torch.save({name: value.detach().clone() for name, value in state.items()}, f"{sys.argv[1]}/{size}.{rank}.pt")
"""


@pytest.mark.slow
def test_two_ranks_are_one_process(tmp_path, repository):
    environment = {**os.environ, "PYTHONPATH": f"{repository}:{os.environ.get('PYTHONPATH', '')}"}
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in ([sys.executable], launcher):
        result = subprocess.run(
            [*command, script, tmp_path], cwd=repository, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr[-3000:]

    expected, first, second = (torch.load(tmp_path / name) for name in ("4.0.pt", "2.0.pt", "2.1.pt"))
    assert expected["mean"].abs().max() > 1e-3
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, **CLOSE)
