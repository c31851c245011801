"""However the same numbers are computed, they are the same."""

import os
import subprocess
import sys

import pytest
import torch

from tests.model.tiny import BATCH, CHUNKS, LATENTS, TOKENS, media, questions, tiny_model

# reason for tolerances in this file: another order of sums
CLOSE = {"atol": 3e-5, "rtol": 1e-4}


def ragged_clips():
    clips = media()
    clips["video_chunk_mask"][0, 3:] = clips["audio_chunk_mask"][0, 3:] = False
    clips["audio_chunk_mask"][1] = False
    return clips


def padded_questions():
    text = questions()
    mask = torch.ones_like(text["decoder_input_ids"])
    mask[1, :4] = 0
    return {**text, "decoder_attention_mask": mask}


def test_eager_equals_sdpa():
    eager, sdpa = tiny_model(attention="eager"), tiny_model(attention="sdpa")
    clips, text = ragged_clips(), padded_questions()

    with torch.no_grad():
        expected = eager(**clips, **text, output_attentions=True)
        found = sdpa(**clips, **text)

    real = text["decoder_attention_mask"].bool()
    torch.testing.assert_close(found.logits[real], expected.logits[real], **CLOSE)
    for name in ("loss", "text_loss", "latent_loss", "video_loss", "audio_loss"):
        torch.testing.assert_close(found[name], expected[name], **CLOSE)
    assert eager.config.text_config._attn_implementation == "eager"
    assert sdpa.model.encoder.video_encoder.layers[0].attention.config._attn_implementation == "sdpa"


def test_the_attention_function_is_changed_in_every_part_without_a_warning(caplog):
    model, clips = tiny_model(attention="sdpa"), ragged_clips()
    parts = [getattr(model.config, key) for key in model.config.sub_configs]
    for wanted in ("eager", "sdpa", {"": "eager", "text_config": "eager"}):
        model.set_attn_implementation(wanted)
        names = [part._attn_implementation for part in (model.config, *parts)]
        if isinstance(wanted, str):
            assert set(names) == {wanted}
    assert names == ["eager"] + ["eager" if part is model.config.text_config else "sdpa" for part in parts]
    with pytest.raises(ValueError, match="nothing"):
        model.set_attn_implementation("nothing")
    assert [part._attn_implementation for part in (model.config, *parts)] == names
    assert not caplog.records
    with torch.no_grad():
        assert model(**clips, **padded_questions(), output_attentions=True).cross_attentions is not None


def test_cross_attentions_are_shares_of_the_real_chunks():
    model = tiny_model(attention="eager")
    clips, text = ragged_clips(), questions(rows=2 * BATCH)

    with torch.no_grad():
        output = model(**clips, **text, output_attentions=True)

    assert len(output.cross_attentions) == 2
    for weights in output.cross_attentions:
        assert weights.shape == (2 * BATCH, 4, TOKENS, CHUNKS * LATENTS)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2 * BATCH, 4, TOKENS))
        assert (weights[:2, ..., 3 * LATENTS :] == 0).all()  # both questions of the clip that ends after 3 chunks
        assert (weights[2:, ..., 3 * LATENTS :] > 0).all()


def test_checkpointed_gradients_are_equal():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(text_config={"dropout": 0.2}).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        torch.manual_seed(5)
        model(**ragged_clips(), **questions()).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})

    for name, expected in gradients[0].items():
        assert torch.equal(gradients[1][name], expected), name


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_is_finite_and_near_fp32(autocast):
    clips, text = ragged_clips(), questions()
    expected = tiny_model()(**clips, **text)
    model = tiny_model() if autocast else tiny_model().to(torch.bfloat16)

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = model(**clips, **text)
    output.loss.backward()

    for name in ("loss", "text_loss", "latent_loss", "video_loss", "audio_loss"):
        assert output[name].isfinite(), name
        assert output[name].item() == pytest.approx(expected[name].item(), rel=0.1), name  # 8 bits of mantissa
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_bf16_generates():
    model = tiny_model().to(torch.bfloat16)
    ids = model.generate(
        **ragged_clips(), decoder_input_ids=questions(tokens=4)["decoder_input_ids"], max_new_tokens=3
    )
    assert ids.shape[0] == BATCH


COMPILE = """
import torch
from tests.model.test_implementations import CLOSE, questions, ragged_clips, tiny_model

parts = ("video_config", "audio_config", "combiner_config", "temporal_config", "text_config")
small = {part: {"num_hidden_layers": 1} for part in parts}
inputs = {**ragged_clips(), "decoder_input_ids": questions()["decoder_input_ids"], "use_cache": False}

def one_graph(module, *args, **kwargs):
    with torch.no_grad():
        return torch.compile(module, fullgraph=True, backend="aot_eager")(*args, **kwargs)

def with_combiner(**kind):
    return tiny_model(**{**small, "combiner_config": {"num_hidden_layers": 1, **kind}})

model = with_combiner()
with torch.no_grad():
    expected = model(**inputs)
found = one_graph(model, **inputs)
torch.testing.assert_close(found.logits, expected.logits, **CLOSE)
torch.testing.assert_close(found.encoder_outputs.surprise, expected.encoder_outputs.surprise, **CLOSE)
others = ({"num_history_chunks": 2}, {"combiner_type": "ttm", "memory_size": 13})
others += ({"combiner_type": "learned_tokens"}, {"combiner_type": "mean_pool"})
for kind in others:
    model, calls = with_combiner(**kind), []
    combiner = model.get_encoder().combiner
    hook = combiner.register_forward_hook(lambda module, args, output: calls.append((args, output)))
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    ((args, (expected, _)),) = calls
    torch.testing.assert_close(one_graph(combiner, *args)[0], expected, **CLOSE)
"""


EXPORT = """
import copy
import torch
from torch.export import Dim, export
from tests.model.test_implementations import CLOSE, media, questions, tiny_model

parts = ("video_config", "audio_config", "combiner_config", "temporal_config", "text_config")
options = {part: {"num_hidden_layers": 1} for part in parts}
model, ids = tiny_model(**options), questions()["decoder_input_ids"]
text = {"decoder_input_ids": ids, "use_cache": False}
graphs = []

def backend(graph, inputs):
    graphs.append(graph)
    return graph

compiled, chunk = torch.compile(model, fullgraph=True, backend=backend), {1: Dim("chunk", min=2, max=4096)}
with torch.no_grad():
    shapes = {**{name: chunk for name in media()}, **{name: None for name in text}}
    exported = export(model, (), {**media(), **text}, dynamic_shapes=shapes, strict=False).module()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear})
    for chunks in range(3, 13):
        expected = model(**media(chunks=chunks), **text).logits
        for other in (compiled, exported):
            torch.testing.assert_close(other(**media(chunks=chunks), **text).logits, expected, **CLOSE)
        error = (quantised(**media(chunks=chunks), **text).logits - expected).abs().mean()
        assert error < 0.1 * expected.abs().mean(), error  # eight bits
assert len(graphs) <= 2, len(graphs)  # the first for its number of chunks, the second for any
"""


@pytest.mark.slow
def test_any_number_of_chunks_is_one_graph_compiled_exported_and_in_int8(repository):
    """In a process of its own, since the shape checks of the tests cannot be compiled."""
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{repository}"}
    result = subprocess.run(
        [sys.executable, "-c", EXPORT], cwd=repository, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_compiled_equals_eager(repository):
    """The whole forward, and each other Combiner, as one graph, by the backend that needs no C++ compiler.

    In a process of its own, since the shape checks of the tests cannot be compiled.
    """
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{repository}"}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=repository, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
