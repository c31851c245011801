"""Attribution: weights by hand and on a model, and which chunks overlap a word."""

import pytest
import torch

from mirasol.answer.attribution import attention_weights, chunk_attention, eager_twin, overlaps, top_evidence
from mirasol.tasks import get_task

TEXTS = ["which color is named?", "which letter is named?", "what is said?"]
ANSWERS = ["blue", "f", "bin blue at f two now"]


@pytest.fixture(scope="module")
def asked(answerer, grid_root):
    """Two clips, the second shorter, with three answered questions each: (model, encoder outputs, text)."""
    processor = answerer.processor
    clips = [processor.read_clip(row.media) for row in get_task("grid").load(grid_root, "test")[:2]]
    clips[1].frames, clips[1].frame_times = clips[1].frames[:43], clips[1].frame_times[:43]
    clips[1].waveform, clips[1].duration = clips[1].waveform[: 43 * 640], 43 / 25
    return answerer.model, answerer.watch(*clips).encoder_outputs, processor(text=TEXTS * 2, answers=ANSWERS * 2)


def test_chunk_attention_is_the_mean_over_layers_heads_and_answer_positions():
    layers, rows, heads, tokens, chunks, latents = 2, 3, 2, 5, 3, 2
    weights = torch.rand(layers, rows, heads, tokens, chunks * latents, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    found = chunk_attention(list(weights), mask, chunks)
    for row in range(rows):
        for chunk in range(chunks):
            values = [
                weights[layer, row, head, token, chunk * latents : (chunk + 1) * latents].sum()
                for layer in range(layers)
                for head in range(heads)
                for token in range(tokens)
                if mask[row, token]
            ]
            torch.testing.assert_close(found[row, chunk], torch.stack(values).mean())


@torch.no_grad()
def test_the_weights_of_the_real_chunks_add_up_to_one(asked):
    model, encoder_outputs, text = asked
    real = encoder_outputs.chunk_mask.repeat_interleave(3, dim=0)
    assert real.sum(1).tolist() == [10, 10, 10, 6, 6, 6]
    before = model.config.text_config._attn_implementation
    weights = attention_weights(eager_twin(model), encoder_outputs, text)
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert (weights[~real] == 0).all()
    assert (weights >= 0).all()
    assert model.config.text_config._attn_implementation == before


def test_a_chunk_touches_a_word_within_a_margin_of_sixteen_hundredths():
    chunk_times = torch.tensor([[0.0, 0.3], [0.3, 0.6], [0.6, 0.9], [0.9, 1.2], [1.2, 1.5]])
    assert overlaps(chunk_times, (0.8, 0.85)).tolist() == [False, False, True, True, False]
    assert overlaps(chunk_times, (0.74, 0.85)).tolist() == [False, True, True, True, False]


def test_evidence_comes_heaviest_first_and_never_from_padding():
    weights, real = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([True, True, True, False])
    times = torch.tensor([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    assert [(e.start, e.end) for e in top_evidence(weights, times, real)] == [(2.0, 3.0), (1.0, 2.0), (0.0, 1.0)]


def test_only_the_answers_tokens_count_whatever_the_question(answerer, grid_root, monkeypatch):
    """Not the whole prompt: what `attribute` averages is the attention at the places that predict the answer."""
    clip = answerer.processor.read_clip(get_task("grid").load(grid_root, "test")[0].media)
    watched, asked = answerer.watch(clip), [["which color is named?", "what is said?"]]
    given = answerer.answer(watched, asked)
    seen = []
    twin = eager_twin(answerer.model)
    hook = twin.model.register_forward_hook(lambda _, inputs, outputs: seen.append(outputs.cross_attentions))
    monkeypatch.setitem(answerer.__dict__, "_twin", twin)
    (shares,) = answerer.attribute(watched, asked, given)
    hook.remove()
    attention = torch.stack(seen[0]).mean(dim=(0, 2))  # row token key
    for row, answer in enumerate(given[0]):
        first = attention.shape[1] - max(len(a.token_ids) for a in given[0])  # the prompt's last token predicts
        places = attention[row, first : first + len(answer.token_ids)].mean(0)
        expected = places.reshape(shares.shape[1], -1).sum(1)
        torch.testing.assert_close(shares[row], expected)
        assert not torch.allclose(attention[row].mean(0).reshape(shares.shape[1], -1).sum(1), expected, rtol=1e-3)


def test_attribution_leaves_the_shared_model_as_it_is(answerer):
    model = answerer.model
    before = (model.config.text_config._attn_implementation, [p.data_ptr() for p in model.parameters()])
    twin = eager_twin(model)
    assert twin.config.text_config._attn_implementation == "eager" != before[0]
    assert (model.config.text_config._attn_implementation, [p.data_ptr() for p in model.parameters()]) == before
    assert [p.data_ptr() for p in twin.parameters()] == before[1]  # no second copy of the weights
