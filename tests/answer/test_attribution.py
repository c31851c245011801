"""What an answer rests on: weights by hand, both methods on a model, and which chunks touch a word."""

import pytest
import torch

from mirasol.answer.attribution import (
    answer_log_probability,
    attention_weights,
    chunk_attention,
    leave_one_out_weights,
    overlaps,
    top_evidence,
)
from mirasol.answer.generation import split_inputs
from mirasol.tasks import get_task

TEXTS = ["which color is named?", "which letter is named?", "what is said?"]
ANSWERS = ["blue", "f", "bin blue at f two now"]


@pytest.fixture(scope="module")
def asked(loaded, grid_root):
    """Two clips, the second shorter, with three answered questions each: (model, media, text)."""
    model, processor = loaded
    clips = [processor.read_clip(row.media) for row in get_task("grid").load(grid_root, "test")[:2]]
    clips[1].frames, clips[1].frame_times = clips[1].frames[:43], clips[1].frame_times[:43]
    clips[1].waveform, clips[1].duration = clips[1].waveform[: 43 * 640], 43 / 25
    inputs = processor(text=TEXTS * 2, videos=clips, answers=ANSWERS * 2)
    return (model, *split_inputs(inputs, model.device))


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
def test_both_methods_share_one_whole_among_real_chunks(asked):
    model, media, text = asked
    real = (media["video_chunk_mask"] | media["audio_chunk_mask"]).repeat_interleave(3, dim=0)
    assert real.sum(1).tolist() == [10, 10, 10, 6, 6, 6]
    encoder_outputs = model.get_encoder()(**media)
    before = model.config.text_config._attn_implementation
    for weights in (attention_weights(model, encoder_outputs, text), leave_one_out_weights(model, media, text)):
        torch.testing.assert_close(weights.sum(1), torch.ones(6))
        assert (weights[~real] == 0).all()
        assert (weights >= 0).all()
    assert model.config.text_config._attn_implementation == before


@torch.no_grad()
def test_leaving_out_a_chunk_is_masking_it_and_asking_again(asked):
    model, media, text = asked

    def log_probability(**masks):
        outputs = model(
            **{**media, **masks},
            **{k: text[k] for k in ("decoder_input_ids", "decoder_attention_mask")},
            use_cache=False,
        )
        return answer_log_probability(outputs.logits, text["labels"])

    drops = []
    for chunk in range(10):
        masks = {name: media[name].clone() for name in ("video_chunk_mask", "audio_chunk_mask")}
        for mask in masks.values():
            mask[:, chunk] = False
        drops.append((log_probability() - log_probability(**masks)).clamp(min=0))
    expected = torch.stack(drops, dim=1)[:3]  # the first clip: all its chunks are real
    torch.testing.assert_close(
        leave_one_out_weights(model, media, text)[:3], expected / expected.sum(1, keepdim=True), rtol=1e-3, atol=1e-4
    )  # drops are small differences of float32 sums


def test_log_probability_counts_the_answer_only():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[-100, 2, 1], [3, -100, -100]])
    logs = logits.log_softmax(-1)
    expected = torch.stack([(logs[0, 1, 2] + logs[0, 2, 1]) / 2, logs[1, 0, 3]])
    torch.testing.assert_close(answer_log_probability(logits, labels), expected)


def test_a_chunk_touches_a_word_within_a_margin_of_sixteen_hundredths():
    chunk_times = torch.tensor([[0.0, 0.3], [0.3, 0.6], [0.6, 0.9], [0.9, 1.2], [1.2, 1.5]])
    assert overlaps(chunk_times, (0.8, 0.85)).tolist() == [False, False, True, True, False]
    assert overlaps(chunk_times, (0.74, 0.85)).tolist() == [False, True, True, True, False]


def test_evidence_comes_heaviest_first_and_never_from_padding():
    weights, real = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([True, True, True, False])
    times = torch.tensor([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])
    assert [(e.start, e.end) for e in top_evidence(weights, times, real)] == [(2.0, 3.0), (1.0, 2.0), (0.0, 1.0)]
