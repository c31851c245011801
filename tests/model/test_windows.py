"""Tubes and patches: the windows of a convolution, in the order of their centres."""

import math

import pytest
import torch
from torch import nn

from mirasol.model.configuration_mirasol import MirasolVideoConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.modeling_mirasol_encoders import (
    MirasolVideoEncoder,
    MirasolWindowEmbedding,
    covered_area,
    window_centres,
)
from mirasol.model.modeling_mirasol_layers import rotary, sincos_code
from tests.model.tiny import FRAMES, IMAGE_SIZE, enliven, tiny_config

WINDOWS = (((2, 3, 4), (1, 3, 5), (1, 2, 0)), ((3, 5, 2), (2, 4, 3), (0, 0, 1)))
SIZE = (5, 11, 13)


def test_window_embedding_equals_a_strided_convolution():
    embedding = MirasolWindowEmbedding(WINDOWS, SIZE, num_channels=3, hidden_size=24)
    values = torch.randn(2, 3, *SIZE)

    found = embedding(values) - embedding.position_code(values.device)

    expected = []
    for (kernel, stride, offset), projection in zip(WINDOWS, embedding.projections, strict=True):
        rest = values[:, :, offset[0] :, offset[1] :, offset[2] :]
        weight = projection.weight.reshape(24, 3, *kernel)
        expected.append(nn.functional.conv3d(rest, weight, projection.bias, stride=stride).flatten(2).mT)
    # sums of up to 90 products in another order
    torch.testing.assert_close(found, torch.cat(expected, dim=1), atol=1e-5, rtol=1e-5)


def test_centres_are_those_of_the_windows():
    assert window_centres((7,), (3,), (2,), (0,)).tolist() == [[1.0], [3.0], [5.0]]
    assert window_centres((7,), (2,), (3,), (1,)).tolist() == [[1.5], [4.5]]
    assert window_centres((4, 3), (4, 1), (4, 2), (0, 0)).tolist() == [[1.5, 0.0], [1.5, 2.0]]


def test_every_token_has_a_position_code_of_its_own():
    for config in (tiny_config().video_config, MirasolVideoConfig()):
        code = MirasolVideoEncoder(config).embedding.position_code(torch.device("cpu"))
        # windows of different shapes may share a centre, windows of one shape may not
        start = 0
        for kernel, stride, offset in config.tubes:
            count = len(window_centres(config.input_size, kernel, stride, offset))
            distance = torch.cdist(code[start : start + count], code[start : start + count])
            assert (distance + torch.eye(count) > 1e-2).all()
            start += count
        assert start == len(code) == config.num_tokens


def test_covered_area_is_where_the_tokens_have_a_gradient():
    config = MirasolVideoConfig(num_frames=FRAMES, image_size=IMAGE_SIZE, tubes=(((2, 3, 4), (2, 5, 5), (0, 1, 0)),))
    encoder = enliven(MirasolVideoEncoder(config))
    pixels = torch.randn(1, FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE, requires_grad=True)

    encoder.embedding(pixels.movedim(2, 1)).square().sum().backward()

    seen = (pixels.grad[0] != 0).any(dim=1).float().mean(dim=(1, 2))
    assert covered_area(config) == seen.tolist()
    assert covered_area(config)[0] > 0.2
    assert covered_area(config)[2] == 0  # one tube of two frames leaves the third unseen


def test_sincos_code_repeats_after_its_periods():
    code = sincos_code(torch.tensor([0.0, 0.5, 8.0]), 4, shortest=0.5, longest=8.0)

    assert code.shape == (3, 4)
    torch.testing.assert_close(code[0], torch.tensor([0.0, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(code[1, [0, 2]], torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)  # one shortest period on
    torch.testing.assert_close(code[2], code[0], atol=1e-5, rtol=0)  # one longest, sixteen shortest
    assert abs(code[1, 1] - 0.3827) < 1e-3  # sin(2 pi / 16)


def test_motion_gain_multiplies_what_differs_from_the_mean_frame_of_the_chunk():
    config = MirasolVideoConfig(num_frames=FRAMES, image_size=IMAGE_SIZE, tubes=(((2, 3, 4), (1, 3, 4), (0, 0, 0)),))
    plain = enliven(MirasolVideoEncoder(config)).eval()
    amplified = MirasolVideoEncoder(config)
    amplified.load_state_dict(plain.state_dict())
    amplified.motion_gain = 5.0
    pixels = torch.randn(1, FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE)
    still = sum(pixels[:, frame] for frame in range(FRAMES)) / FRAMES

    by_hand = torch.stack([still + 5.0 * (pixels[:, frame] - still) for frame in range(FRAMES)], dim=1)

    torch.testing.assert_close(amplified.eval()(pixels), plain(by_hand), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain(pixels), plain(by_hand), atol=1e-2)
    standing = still[:, None].expand(-1, FRAMES, -1, -1, -1)
    torch.testing.assert_close(amplified(standing), plain(standing), atol=1e-4, rtol=1e-4)


def test_windows_and_tables_start_with_the_spread_of_all_weights():
    """As the shipped checkpoint was trained; also where positions are learned."""
    torch.manual_seed(0)
    model = MirasolForConditionalGeneration(
        tiny_config(video_config={"num_prefix_tokens": 2, "position_code": "learned", "hidden_size": 40})
    )
    embedding = model.model.encoder.video_encoder.embedding
    for projection in embedding.projections:
        assert abs(projection.weight.std().item() - 0.02) < 0.002
    for table in (embedding.prefix_tokens, embedding.position_embedding):
        assert abs(table.std().item() - 0.02) < 0.004
    assert abs(model.model.encoder.temporal_model.slot_embedding.std().item() - 0.02) < 0.004


def test_position_code_by_hand():
    """Each axis has an equal share of the width; periods from 2 elements to 4 chunks; the rest is zero."""
    embedding = MirasolWindowEmbedding((((2, 3), (2, 3), (1, 0)),), (7, 9), num_channels=1, hidden_size=14)

    code = embedding.position_code(torch.device("cpu"))

    assert code.shape == (9, 14)
    for token in range(9):
        expected = []
        for centre, size in ((1.5 + 2 * (token // 3), 7), (1 + 3 * (token % 3), 9)):
            angles = [2 * math.pi * centre / (2 * (2 * size) ** (i / 2)) for i in range(3)]
            expected += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        torch.testing.assert_close(code[token], torch.tensor([*expected, 0.0, 0.0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rotary_angles_are_exact_far_from_the_start(dtype):
    """At position 28,000 angles made in fp32 are off by up to 1e-3, those in bf16 by whole turns."""
    cos, sin = rotary(torch.tensor([[28_001]]), 6, 10_000.0, dtype)

    assert cos.dtype == sin.dtype == torch.float32
    for i in range(3):
        angle = 28_001 * 10_000.0 ** (-2 * i / 6)
        assert cos[0, 0, i].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert sin[0, 0, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
