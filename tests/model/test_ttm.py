"""The Token Turing Machine is the reference's, on its stored inputs, weights and outputs (data/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

from mirasol.model.configuration_mirasol import MirasolCombinerConfig
from mirasol.model.modeling_mirasol_ttm import MirasolTokenTuringUnit
from tests.model.test_combiner_kinds import features, ttm
from tests.model.tiny import tiny_model

KINDS = ["token_learner", "multi_head", "add_erase"]
LATENTS, MEMORY, DIM, SLOTS = 5, 7, 16, 11
# reason for the tolerance: fp32 on both sides, sums of at most 64 numbers of order one in another order
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "data" / "token_turing.npz") as file:
        arrays = dict(file)
    return {name: str(x) if x.dtype.kind == "U" else torch.tensor(x).float() for name, x in arrays.items()}


def weights_of(reference, kind):
    """The reference's weights by name, each in its shape."""
    shapes = dict(json.loads(reference[f"{kind}/names"]))
    values = reference[f"{kind}/weights"].split([int(np.prod(shape)) for shape in shapes.values()])
    return {name: value.reshape(shapes[name]) for name, value in zip(shapes, values, strict=True)}


class Translation:
    """Our names and layouts for the reference's weights; counts those that were used."""

    def __init__(self, weights):
        self.weights, self.used, self.ours = weights, set(), {}

    def take(self, name):
        self.used.add(name)
        return self.weights[name]

    def linear(self, ours, theirs):
        self.ours[f"{ours}.weight"] = self.take(f"{theirs}/kernel").T
        self.ours[f"{ours}.bias"] = self.take(f"{theirs}/bias")

    def norm(self, ours, theirs):
        self.ours[f"{ours}.weight"] = self.take(f"{theirs}/scale")
        self.ours[f"{ours}.bias"] = self.take(f"{theirs}/bias")

    def mlp(self, ours, theirs):
        self.linear(f"{ours}.0", f"{theirs}/Dense_0")
        self.linear(f"{ours}.2", f"{theirs}/Dense_1")

    def table(self, ours, theirs):
        self.ours[ours] = self.take(theirs)[0]

    def attention(self, ours, theirs):
        parts = {}
        for part in ("query", "key", "value"):
            kernel = rearrange(self.take(f"{theirs}/{part}/kernel"), "dim head size -> (head size) dim")
            parts[part] = kernel, self.take(f"{theirs}/{part}/bias").flatten()
        for index, kind in enumerate(("weight", "bias")):
            self.ours[f"{ours}.q_proj.{kind}"] = parts["query"][index]
            self.ours[f"{ours}.kv_proj.{kind}"] = torch.cat([parts["key"][index], parts["value"][index]])
        self.ours[f"{ours}.o_proj.weight"] = rearrange(self.take(f"{theirs}/out/kernel"), "h s dim -> dim (h s)")
        self.ours[f"{ours}.o_proj.bias"] = self.take(f"{theirs}/out/bias")

    def summary(self, kind, ours, index):
        if kind == "multi_head":
            self.table(f"{ours}.queries", f"TokenLearnerMHA_{index}/tokens")
            self.attention(ours, f"TokenLearnerMHA_{index}/attn")
        else:
            self.norm(f"{ours}.norm", f"TokenLearnerModuleV11_{index}/LayerNorm_0")
            self.mlp(f"{ours}.score", f"TokenLearnerModuleV11_{index}/token_masking")

    def add_erase(self, ours, theirs):
        self.norm(f"{ours}.norm", f"{theirs}/LayerNorm_0")
        self.mlp(f"{ours}.score", f"{theirs}/MlpBlock_0")
        for index, name in ((1, "erased"), (2, "added")):
            self.norm(f"{ours}.{name}.norm", f"{theirs}/LayerNorm_{index}")
            self.mlp(f"{ours}.{name}.over_tokens", f"{theirs}/MlpBlock_{2 * index - 1}")
            self.mlp(f"{ours}.{name}.over_channels", f"{theirs}/MlpBlock_{2 * index}")


def unit_of(reference, kind, attention="sdpa"):
    """Our unit with the reference's weights, all of them, and nothing else."""
    config = MirasolCombinerConfig(
        combiner_type="ttm",
        summarizer=kind,
        hidden_size=DIM,
        num_attention_heads=8,
        num_hidden_layers=2,
        intermediate_size=19,
        num_latents=LATENTS,
        memory_size=MEMORY,
        hidden_act="gelu_pytorch_tanh",  # flax's gelu is the approximate one unless told otherwise
    )
    config._attn_implementation = attention
    unit = MirasolTokenTuringUnit(config, SLOTS).eval()
    weights = Translation(weights_of(reference, kind))
    weights.table("read_position", "read_pos_embed/pos_embedding")
    weights.table("process_position", "Encoder_0/posembed_input/pos_embedding")
    weights.norm("norm", "Encoder_0/encoder_norm")
    for index in range(2):
        block = f"Encoder_0/encoderblock_{index}"
        weights.norm(f"layers.{index}.attention_norm", f"{block}/LayerNorm_0")
        weights.attention(f"layers.{index}.attention", f"{block}/MultiHeadDotProductAttention_0")
        weights.norm(f"layers.{index}.mlp_norm", f"{block}/LayerNorm_1")
        weights.mlp(f"layers.{index}.mlp", f"{block}/MlpBlock_0")
    weights.summary(kind, "read", 0)
    if kind == "add_erase":
        weights.add_erase("write", "TokenAddEraseWrite_0")
    else:
        weights.table("write_position", "write_pos_embed/pos_embedding")
        weights.summary(kind, "write", 1)
    unit.load_state_dict(weights.ours)
    assert weights.used == set(weights.weights)
    return unit


@pytest.mark.parametrize("kind", KINDS)
def test_summariser_equals_the_reference(reference, kind):
    unit, inputs = unit_of(reference, kind), reference["inputs"]
    with torch.no_grad():
        if kind == "add_erase":
            found = unit.write(inputs[:, 1, :MEMORY], inputs[:, 2, :LATENTS])
        else:
            found = unit.read(inputs[:, 0], torch.ones(2, SLOTS, dtype=torch.bool))

    torch.testing.assert_close(found, reference[f"{kind}/summary"], **CLOSE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_unit_equals_the_reference_chunk_after_chunk(reference, kind, attention):
    unit, inputs = unit_of(reference, kind, attention), reference["inputs"]
    memory = torch.zeros(2, MEMORY, DIM)
    for chunk in range(inputs.shape[1]):
        with torch.no_grad():
            memory, outputs = unit(memory, inputs[:, chunk], torch.ones(2, SLOTS, dtype=torch.bool))
        torch.testing.assert_close(outputs, reference[f"{kind}/outputs"][:, chunk], **CLOSE)
        torch.testing.assert_close(memory, reference[f"{kind}/memories"][:, chunk], **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_slots_are_absent_slots(reference, kind):
    """A unit that never had the slots, its positions cut to match, gives the same."""
    unit, inputs = unit_of(reference, kind), reference["inputs"]
    mask, kept = torch.ones(2, SLOTS, dtype=torch.bool), SLOTS - 4
    mask[:, kept:] = False
    memory = reference[f"{kind}/memories"][:, 0]
    with torch.no_grad():
        expected = unit(memory, inputs[:, 1], mask)
        for name in ("read_position", "write_position"):
            if hasattr(unit, name):
                table = getattr(unit, name)
                rows = [*range(MEMORY + kept), *range(MEMORY + SLOTS, len(table))]
                setattr(unit, name, torch.nn.Parameter(table[rows]))
        found = unit(memory, inputs[:, 1, :kept], mask[:, :kept])

    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_lives_for_thousands_of_chunks(kind):
    """In bounds, and still of use: with weights this large two of the reference's kinds are NaN after 600 chunks."""
    combiner = tiny_model(combiner_config=ttm(kind)).model.encoder.combiner
    video, audio, *_ = features(64)
    real, cache = torch.ones(len(video), 64, dtype=torch.bool), None
    with torch.no_grad():
        for _ in range(12):
            outputs, cache = combiner(video, audio, real, real, stream_cache=cache)
        other, _ = combiner(video, audio, real, real)

    assert cache["memory"].abs().max() <= 100.001
    assert outputs.isfinite().all()
    assert (outputs[:, -1] - outputs[:, -2]).abs().max() > 1e-2  # chunks are told apart
    assert (outputs[:, 0] - other[:, 0]).abs().max() > 1e-2  # and the past is read
