"""New weights: tables begin with the spread that the config says; windows have the code of their centres."""

import math

import pytest
import torch

from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from tests.model.tiny import tiny_config


@pytest.fixture(scope="module")
def model():
    """Wide enough for a spread to be measured."""
    torch.manual_seed(0)
    wide = {"hidden_size": 128, "num_hidden_layers": 1}
    config = tiny_config(initializer_range=0.03, video_config=wide, audio_config=wide | {"position_code": "learned"})
    return MirasolForConditionalGeneration(config)


def test_learned_positions_and_slots_begin_as_the_config_says(model):
    encoder = model.model.encoder
    tables = encoder.audio_encoder.embedding.position_embedding, encoder.temporal_model.slot_embedding
    assert [table.std().item() for table in tables] == pytest.approx([0.03] * 2, rel=0.15)


def test_the_code_of_a_window_is_the_sine_and_cosine_of_its_centre():
    """One tube over 3 frames and 5 x 5 pixels of 10: its first centre is frame 1, row 2, column 2."""
    config = MirasolConfig(**tiny_config(video_config={"hidden_size": 26}).to_dict())
    embedding = MirasolForConditionalGeneration(config).model.encoder.video_encoder.embedding
    code = embedding.position_code(torch.device("cpu"))
    assert code.shape == (16, 26)  # 8 numbers for each of 3 axes, and 2 left over
    expected = []
    for centre, length in ((1.0, 3), (2.0, 10), (7.0, 10)):  # the second tube lies one to the right
        periods = [2.0 * (4.0 * length / 2.0) ** (k / 3) for k in range(4)]
        angles = [2 * math.pi * centre / period for period in periods]
        expected += [*map(math.sin, angles), *map(math.cos, angles)]
    torch.testing.assert_close(code[1], torch.tensor([*expected, 0.0, 0.0]), rtol=1e-5, atol=1e-5)
