"""Relations between parts are checked when a config is made, and the message says both numbers and the remedy."""

import pytest
from huggingface_hub.errors import StrictDataclassError

from mirasol.model.configuration_mirasol import (
    MirasolAudioConfig,
    MirasolConfig,
    MirasolVideoConfig,
    count_tokens,
    num_positions,
)
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.presets import PRESETS, preset
from tests.model.tiny import tiny_config, tiny_model


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"combiner_config": {"num_latents": 23}}, ["num_latents=23", "22 slots", "Lower num_latents"]),
        ({"combiner_config": {"hidden_size": 21}}, ["hidden_size=21", "num_attention_heads=2", "Change one"]),
        ({"combiner_config": {"hidden_size": 22}}, ["22", "20", "must be equal"]),
        ({"combiner_config": {"combiner_type": "resampler"}}, ["combiner_type", "'ttm'", "'resampler'"]),
        ({"combiner_config": {"summarizer": "mean"}}, ["summarizer", "'add_erase'", "'mean'"]),
        ({"combiner_config": {"num_history_chunks": -1}}, ["at least 0", "num_history_chunks=-1"]),
        (
            {"combiner_config": {"combiner_type": "ttm", "num_history_chunks": 8}},
            ["num_history_chunks=8", "combiner_type='ttm'", "Set num_history_chunks=0"],
        ),
        (
            {"combiner_config": {"num_history_chunks": 8, "num_attention_heads": 4}},
            ["even size", "hidden_size=20", "num_attention_heads=4"],
        ),
        ({"combiner_config": {"combiner_type": "ttm", "memory_size": 0}}, ["at least 1", "memory_size=0"]),
        (
            {"combiner_config": {"combiner_type": "ttm", "memory_size": 7}},
            ["memory_size=7", "num_latents=11", "Raise memory_size or lower num_latents"],
        ),
        ({"temporal_config": {"window_chunks": 0}}, ["at least 1", "None for all chunks", "window_chunks=0"]),
        ({"text_config": {"window_chunks": 0}}, ["at least 1", "None for all chunks", "window_chunks=0"]),
        ({"video_config": {"num_attention_heads": 5}}, ["hidden_size=12", "num_attention_heads=5"]),
        ({"temporal_config": {"num_attention_heads": 4}}, ["hidden_size=20", "num_attention_heads=4", "size 5"]),
        ({"text_config": {"num_key_value_heads": 3}}, ["num_attention_heads=4", "num_key_value_heads=3"]),
        ({"text_config": {"tie_word_embeddings": False}}, ["text_config.tie_word_embeddings=False", "False in both"]),
        ({"text_config": {"head_dim": 7}}, ["head_dim=7", "even"]),
        ({"temporal_config": {"predicted_video_size": (2, 5, 2)}}, ["(2, 5, 2)", "(3, 10, 10)", "divisors"]),
        ({"temporal_config": {"predicted_audio_size": (7, 2)}}, ["(7, 2)", "(7, 5)", "divisors"]),
        ({"video_config": {"tubes": (((4, 5, 5), (4, 5, 5), (0, 0, 0)),)}}, ["(4, 5, 5)", "(3, 10, 10)", "smaller"]),
        ({"video_config": {"tubes": (((2, 5), (4, 5), (0, 0)),)}}, ["3 numbers", "(2, 5)"]),
        ({"audio_config": {"patches": (((2, 5), (1, 5), (0, 1)),)}}, ["(2, 5)", "(0, 1)", "(7, 5)"]),
    ],
)
def test_parts_that_do_not_fit_are_refused(overrides, words):
    with pytest.raises(Exception, match=".") as error:  # `@strict` wraps the ValueError of a sub-config
        tiny_config(**overrides)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("part", "width", "saved"), [("text_config", 18, 16), ("audio_config", 10, 8)])
def test_width_unequal_to_that_of_the_loaded_weights_is_refused(tmp_path, part, width, saved):
    tiny_model().save_pretrained(tmp_path)
    other = tiny_config(**{part: {"hidden_size": width}})

    with pytest.raises(ValueError, match=f"{part}.hidden_size={saved}.*found {width}.*Leave config out"):
        MirasolForConditionalGeneration.from_pretrained(tmp_path, config=other)
    same = MirasolForConditionalGeneration.from_pretrained(tmp_path, config=tiny_config(text_weight=7.0))
    assert same.config.text_weight == 7.0


def test_values_of_another_type_are_refused():
    with pytest.raises(Exception, match="hidden_size"):
        MirasolVideoConfig(hidden_size="wide")


def test_windows_are_counted():
    assert [num_positions(10, 4, 3, offset) for offset in (0, 1, 2)] == [3, 2, 2]
    assert num_positions(3, 4, 1, 0) == 0
    assert count_tokens((((2, 3), (2, 1), (0, 0)), ((7, 5), (1, 1), (0, 0))), (7, 5)) == 3 * 3 + 1
    assert MirasolAudioConfig().num_tokens == 5 * 12  # 64 columns of 128 mel in 16 x 16 patches every 10


def test_grid_of_the_config_is_that_of_its_parts():
    config = tiny_config()

    assert (config.num_frames_per_chunk, config.num_mel_frames_per_chunk, config.num_mel_bins) == (3, 7, 5)
    assert (config.image_size, config.num_latents) == (10, 11)


def test_default_config_is_valid():
    config = MirasolConfig()
    assert config.num_latents == 32
    assert config.to_dict()["video_config"]["image_size"] == 64


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_values_of_the_config(name):
    config = preset(name)
    assert config.num_latents <= config.video_config.num_tokens + config.audio_config.num_tokens
    changed = preset(name, text_config={"vocab_size": 700}, initializer_range=0.07)
    assert (changed.text_config.vocab_size, changed.initializer_range) == (700, 0.07)
    assert changed.text_config.num_hidden_layers == config.text_config.num_hidden_layers
    assert preset(name).to_dict() == config.to_dict()  # overrides left the preset as it was


def test_nano_is_small():
    model = MirasolForConditionalGeneration(preset("nano"))
    assert 5e5 < sum(p.numel() for p in model.parameters()) < 5e6


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="Unknown preset 'nanno'.*nano"):
        preset("nanno")


def test_mel_frames_that_do_not_last_as_long_as_the_chunk_are_refused():
    with pytest.raises(StrictDataclassError, match="seconds_per_chunk=0.64 and .*num_mel_frames=7, which last 0.07 s"):
        tiny_config(seconds_per_chunk=0.64)
