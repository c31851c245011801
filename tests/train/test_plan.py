"""`mirasol train RECIPE --dry-run`: costs by formula, without weights and without data."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.presets import preset
from mirasol.model.sizes import TEXT_TOKENS, build, measure
from mirasol.train.memory import activation_bytes, peak_bytes
from mirasol.train.plan import GIB, GPUS, RESERVE, UTILISATION, plan, planned_config
from mirasol.train.recipe import load_recipe

ALONE = ["optimizer.ema_decay=null", "optimizer.name=adamw", "data.sources=[{task: grid, root: nowhere}]"]
ACCUMULATED = "schedule.gradient_accumulation_steps=2"  # all gradients are there when activations are


@pytest.fixture(scope="module")
def recipe(repository):
    return repository / "recipes" / "grid_nano.yaml"


def test_state_is_sixteen_bytes_a_parameter_and_a_copy_for_autocast(recipe):
    """fp32 weight, gradient and two moments; an average is four more."""
    found = plan(recipe, [*ALONE, ACCUMULATED])
    memory = found.memory
    state = sum(memory[name] for name in ("weights", "gradients", "optimizer", "average"))
    assert state * GIB == pytest.approx(18 * found.parameters)
    assert plan(recipe, ALONE[1:]).memory["average"] * GIB == pytest.approx(4 * found.parameters)
    assert memory["total"] == pytest.approx(RESERVE * (state + memory["activations"]))
    assert plan(recipe, [*ALONE[::2], "optimizer.name=muon"]).memory["optimizer"] < memory["optimizer"]


def test_frozen_parts_have_no_gradients_and_no_moments(recipe):
    whole, frozen = (plan(recipe, [*ALONE, ACCUMULATED, *more]) for more in ([], ["model.freeze=[video_encoder]"]))
    assert frozen.trained_parameters == frozen.parameters - frozen.parts["encoder.video_encoder"]
    assert frozen.memory["gradients"] * GIB == pytest.approx(4 * frozen.trained_parameters)
    assert frozen.memory["weights"] == whole.memory["weights"]


def test_more_gpus_share_the_work_and_large_states(recipe, monkeypatch):
    one, eight = plan(recipe, ALONE, num_clips=1024), plan(recipe, ALONE, num_gpus=8, num_clips=1024)
    assert (one.shards, eight.shards) == (1, 1), "what fits is not sharded"
    assert eight.tflop_per_step == pytest.approx(8 * one.tflop_per_step)
    assert eight.seconds_per_step == pytest.approx(one.seconds_per_step) and eight.num_steps == one.num_steps // 8
    assert one.hours == pytest.approx(90 * 1024 / 16 * one.seconds_per_step / 3600)
    monkeypatch.setitem(GPUS, "small", (1, 0.05))
    small = plan(recipe, ALONE, num_gpus=16, gpu="small")
    assert small.shards == 8 and small.memory["weights"] * GIB == pytest.approx(4 * small.parameters / 8)


def test_what_does_not_fit_is_told_with_the_batch_that_does(recipe, monkeypatch):
    monkeypatch.setitem(GPUS, "small", (1, 0.2))
    found = plan(recipe, ALONE, gpu="small")
    assert not found.fits and 0 < found.largest_batch < 16
    assert f"schedule.batch_size={found.largest_batch} does" in str(found)
    assert plan(recipe, [*ALONE, f"schedule.batch_size={found.largest_batch}"], gpu="small").fits
    monkeypatch.setitem(GPUS, "small", (1, 0.01))
    assert "not even a batch of 1" in str(plan(recipe, ALONE, gpu="small"))


def test_recomputation_costs_a_third_and_saves_most_activations(recipe):
    plain, every, second = (plan(recipe, [*ALONE, f"model.recompute_every={n}"]) for n in ("null", 1, 2))
    assert every.seconds_per_step == pytest.approx(4 / 3 * plain.seconds_per_step)
    assert every.memory["activations"] < second.memory["activations"] < plain.memory["activations"]


def test_wrong_options_are_refused(recipe):
    with pytest.raises(ValueError, match="h200, h100"):
        plan(recipe, ALONE, gpu="h1000")
    with pytest.raises(ValueError, match="found 0 and 0.49"):
        plan(recipe, ALONE, num_gpus=0)
    with pytest.raises(ValueError, match=r"model.checkpoint=null model.preset=NAME"):
        plan(recipe, [*ALONE, "model.checkpoint=runs/nowhere"])


def kept_bytes(model, batch: int, chunks: int, tokens: int) -> int:
    """All that autograd saves in one forward pass under autocast on this machine."""
    config, size = model.config, model.config.image_size
    inputs = {
        "pixel_values_videos": torch.randn(batch, chunks, 8, 3, size, size),
        "input_features": torch.randn(batch, chunks, config.num_mel_frames_per_chunk, config.num_mel_bins),
        "video_chunk_mask": torch.ones(batch, chunks, dtype=torch.bool),
        "audio_chunk_mask": torch.ones(batch, chunks, dtype=torch.bool),
        "chunk_times": torch.arange(2.0 * chunks).reshape(1, chunks, 2).expand(batch, -1, -1),
        "labels": torch.randint(3, 100, (batch, tokens)),
    }
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs).loss
    assert loss.isfinite()
    return sum(kept.values())


def test_activations_are_those_that_a_step_keeps(recipe):
    """What each further clip adds, so that weights and their copies do not count."""
    loaded = load_recipe(recipe, [*ALONE, "processor.vocab_size=100"])
    chunks, tokens = 4, 48
    model = MirasolForConditionalGeneration._from_config(planned_config(loaded), attn_implementation="sdpa").train()
    measured = (kept_bytes(model, 5, chunks, tokens) - kept_bytes(model, 1, chunks, tokens)) / 4
    _, formula = measure(build(planned_config(loaded)), chunks, tokens)
    kept = sum(stored for stored, _ in activation_bytes(model, loaded, chunks, tokens, formula)) + tokens * 100 * 10
    assert kept / measured == pytest.approx(1, abs=0.2)


# Recomputation, clips, GiB: largest `max_memory_allocated` of steps of 128 frames and 256 tokens, AdamW without an
# average, on an H100 with torch 2.11 (benchmarks/gpu.py, 2026-11-26).
PEAKS = {
    "3b": [("null", 1, 54.33), ("null", 2, 65.54), (1, 1, 45.3), (1, 4, 46.71), (1, 8, 51.92), (1, 24, 72.87)],
    "base": [("null", 1, 9.31), ("null", 4, 18.69), ("null", 16, 56.84), (1, 8, 10.43), (1, 32, 23.16)],
}


@pytest.mark.parametrize("name", PEAKS)
def test_memory_is_that_of_an_h100(recipe, name):
    """Within a tenth, which the reserve covers."""
    model = build(preset(name))
    kept = measure(model, 16)[1]
    for every, clips, gib in PEAKS[name]:
        loaded = load_recipe(recipe, [*ALONE, f"model.recompute_every={every}"])
        held = peak_bytes(model, loaded, clips, (16, TEXT_TOKENS), kept, shards=1)
        assert sum(held.values()) / GIB == pytest.approx(gib, rel=0.105), (every, clips)


def test_a_step_takes_the_seconds_of_an_h100(recipe):
    """3b, recomputed and compiled, 24 clips: 2.30 s. The default utilisation is taken from this step."""
    size = ["model.preset=3b", "model.recompute_every=1", "schedule.batch_size=24"]
    clip = ["processor.max_chunks=16", "processor.model_max_length=256", "processor.vocab_size=32000"]
    alone = [*ALONE[:2], "data.sources=[{task: jsonl, root: nowhere, questions_per_clip: 1}]"]
    found = plan(recipe, [*alone, *size, *clip])
    assert found.utilisation == UTILISATION and found.seconds_per_step == pytest.approx(2.302, rel=0.02)
