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


def test_windows_begin_with_the_spread_of_all_weights_whatever_their_position_code(model):
    """The shipped checkpoint was trained so; a second rule for learned positions would be a second model."""
    encoder = model.model.encoder
    for tower in (encoder.video_encoder, encoder.audio_encoder):
        for projection in tower.embedding.projections:
            assert projection.weight.std().item() == pytest.approx(0.03, rel=0.15)


@pytest.mark.parametrize(("summarizer", "count"), [("token_learner", 4), ("add_erase", 12)])
def test_summaries_of_a_token_turing_machine_begin_with_the_spread_of_xavier(summarizer, count, tmp_path):
    """At 0.03 every token would score alike; a loaded model keeps its weights and starts only those that lack."""
    torch.manual_seed(0)
    size = {"hidden_size": 120, "num_attention_heads": 2}
    kind = {"combiner_type": "ttm", "summarizer": summarizer, "num_hidden_layers": 1, "num_write_tokens": 8}
    config = tiny_config(initializer_range=0.03, combiner_config=size | kind, temporal_config=size)
    model = MirasolForConditionalGeneration(config)
    unit = model.model.encoder.combiner.unit
    weights = [w for n, w in unit.named_parameters() if n.endswith((".0.weight", ".2.weight")) and "layers" not in n]
    assert len(weights) == count
    for weight in weights:
        assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.2)
    model.save_pretrained(tmp_path)
    loaded = MirasolForConditionalGeneration.from_pretrained(tmp_path)
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name


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
