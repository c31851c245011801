"""Processor and model agree on every number that both know, or say which one differs."""

import pytest

from mirasol.chunks.agreement import config_values, grid_of_chunk
from mirasol.model.configuration_mirasol import MirasolConfig

TUBES = {"tubes": [[[8, 13, 13], [8, 13, 13], [0, 0, 0]]]}
SMALL = {
    "combiner_config": {"num_latents": 2},
    "temporal_config": {"predicted_video_size": [2, 13, 13], "predicted_audio_size": [8, 17]},
}


@pytest.fixture
def values(processor):
    decided = config_values(processor)
    return decided | SMALL | {"video_config": decided["video_config"] | TUBES}


def test_a_config_made_of_the_processor_fits(processor, values):
    processor.check_model_config(MirasolConfig(**values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_config": {"num_frames": 16}}, "num_frames_per_chunk, but the processor has 8 and the model 16: load"),
        (
            {"seconds_per_chunk": 0.64, "audio_config": {"num_mel_frames": 64}},
            "num_mel_frames_per_chunk, but the processor has 32 and the model 64",
        ),
        ({"audio_config": {"num_mel_bins": 34}}, "num_mel_bins, but the processor has 17 and the model 34"),
        ({"video_config": {"image_size": 26}}, "image_size, but the processor has 13 and the model 26"),
        ({"video_config": {"num_channels": 1}}, "num_channels, but the processor has 3 and the model 1"),
        ({"decoder_start_token_id": 5}, "decoder_start_token_id, but the processor has 1 and the model 5"),
        ({"eos_token_id": 5}, "eos_token_id, but the processor has 2 and the model 5"),
        ({"text_config": {"vocab_size": 200}}, "must not have more tokens than .*, but it has 291 and the model 200"),
        (
            {"text_config": {"vocab_size": 300, "max_position_embeddings": 36}},
            r"more tokens of context \(model_max_length\) than .* but it has 37 and the model 36",
        ),
    ],
)
def test_a_number_that_differs_is_named_with_both_values(processor, values, change, message):
    for name, value in change.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=message):
        processor.check_model_config(MirasolConfig(**values))


def test_a_grid_changed_after_loading_is_compared_too(processor, values):
    processor.frames_per_second, processor.num_mel_frames_per_chunk = 12.5, 64
    with pytest.raises(ValueError, match="num_mel_frames_per_chunk, but the processor has 64 and the model 32"):
        processor.check_model_config(MirasolConfig(**values))


def test_the_rate_follows_from_frames_and_mel_frames():
    assert grid_of_chunk(8, 32) == {
        "frames_per_second": 25.0,
        "num_frames_per_chunk": 8,
        "num_mel_frames_per_chunk": 32,
    }
