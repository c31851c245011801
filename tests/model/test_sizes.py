"""What `mirasol info PRESET` says is what the model is: counted by hand on a small one, within the paper's bounds."""

import json

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from mirasol.cli import main
from mirasol.model.modeling_mirasol_encoders import covered_area
from mirasol.model.presets import PRESETS, preset
from mirasol.model.sizes import BYTES, build, cache_bytes, measure, parameters_by_part
from mirasol.report.info import info
from tests.model.tiny import CHUNKS, TOKENS, media, questions, tiny_config, tiny_model


@pytest.fixture(scope="module")
def large():
    return info("3b").as_dict()


def test_the_large_one_has_the_papers_size(large):
    """Paper: about 3 billion parameters, 2.9 without audio, a little over half of them for audio and video."""
    parameters = large["parameters"]

    assert 2.95e9 < parameters["total"] < 3.05e9
    assert 2.85e9 < parameters["total_without_audio"] < 2.95e9
    assert 0.5 < parameters["audio_video"] / parameters["total"] < 0.6
    assert parameters["audio_video"] + parameters["text"] == parameters["total"] == sum(parameters["parts"].values())


def test_the_large_one_costs_what_chunks_cost(large):
    """About 12 TFLOP at 128 frames, where concatenation into one language model of this size takes 50."""
    flops = large["forward_flops"]

    assert 11e12 < flops["128"] < 13e12
    assert 3.8 < flops["512"] / flops["128"] < 4.0  # the text is paid for once
    assert large["latents"] == {"128": 512, "512": 2048}
    assert 300 <= large["tokens_per_chunk"]["video"] <= 350
    assert min(large["area_seen_per_frame"]) >= 0.9 and len(large["area_seen_per_frame"]) == 8


def test_presets_see_their_frames_and_grow():
    sizes = [parameters_by_part(build(preset(name)))["total"] for name in ("nano", "small", "base", "3b")]

    assert sizes == sorted(sizes) and len(PRESETS) == len(set(sizes))
    for name in PRESETS:
        assert min(covered_area(preset(name).video_config)) >= 0.9, name


def test_command_gives_the_same_as_text_and_as_json(capsys):
    assert main(["info", "nano", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert main(["info", "nano"]) == 0
    text = capsys.readouterr().out

    assert {"total", "total_without_audio", "audio_video", "text"} < set(facts["parameters"])
    assert set(facts["forward_flops"]) == set(facts["latents"]) == {"128", "512"}
    assert f"{facts['parameters']['total']:,}" in text and f"{facts['forward_flops']['512']:,}" in text


def test_flops_by_hand():
    """Two for every weight and token, two products of attention for every pair of tokens."""
    config = tiny_config()
    video, audio, combiner, temporal, text = (
        config.video_config,
        config.audio_config,
        config.combiner_config,
        config.temporal_config,
        config.text_config,
    )
    latents, keys = config.num_latents, CHUNKS * config.num_latents

    def layer(part, tokens, queries=None):
        width, inner, asking = part.hidden_size, part.intermediate_size, queries or tokens
        projections = 2 * asking * width**2 + tokens * 2 * width**2
        return 2 * (projections + asking * 2 * width * inner + 2 * asking * tokens * width)

    windows = [(4, 3 * 3 * 5 * 5), (12, 3 * 4 * 4)]
    expected = CHUNKS * sum(2 * tokens * size * video.hidden_size for tokens, size in windows)
    expected += CHUNKS * 2 * layer(video, 16)
    expected += CHUNKS * (2 * 6 * 10 * audio.hidden_size + 2 * layer(audio, 6))
    expected += CHUNKS * 2 * 20 * (16 * video.hidden_size + 6 * audio.hidden_size)
    expected += CHUNKS * (layer(combiner, 22) + layer(combiner, 22, latents))
    expected += 2 * layer(temporal, keys)
    expected += 2 * keys * 2 * temporal.hidden_size * temporal.intermediate_size  # the next chunk's features
    expected += 2 * CHUNKS * text.time_code_size * temporal.hidden_size
    heads, shared = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    expected += 2 * 2 * 2 * CHUNKS * temporal.hidden_size * shared  # keys and values of the codes of the chunks' times
    for entries, width in ((TOKENS, text.hidden_size), (keys, temporal.hidden_size)):
        expected += 2 * 2 * (2 * TOKENS * text.hidden_size * heads + 2 * entries * width * shared)
        expected += 2 * 2 * 2 * TOKENS * entries * heads
    expected += 2 * 2 * 3 * TOKENS * text.hidden_size * text.intermediate_size
    expected += 2 * TOKENS * text.hidden_size * text.vocab_size

    found, _ = measure(build(config), CHUNKS, TOKENS)

    assert found == expected


def test_cache_is_that_of_generation():
    config = tiny_config()
    caches = EncoderDecoderCache(DynamicCache(config=config.text_config), DynamicCache(config=config.text_config))
    with torch.no_grad():
        tiny_model()(**media(batch=1), **questions(rows=1), past_key_values=caches, use_cache=True)

    layers = [*caches.self_attention_cache.layers, *caches.cross_attention_cache.layers]
    held = sum(layer.keys.numel() + layer.values.numel() for layer in layers)
    assert cache_bytes(config, CHUNKS, TOKENS) == BYTES * held


def test_what_is_kept_for_backward_grows_with_chunks_and_not_with_attention():
    """Fused attention keeps no weights: the temporal model's would grow with the square of the chunks."""
    model = build(tiny_config())
    kept = {chunks: measure(model, chunks)[1] for chunks in (10, 20, 40)}

    assert kept[20] - kept[10] > 0
    assert kept[40] - kept[20] == pytest.approx(2 * (kept[20] - kept[10]), rel=0.02)
