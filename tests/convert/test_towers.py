"""Converted towers whose picture, chunk or scale differ from the pretrained: positions, kernels, statistics."""

import json

import pytest
import torch
from einops import rearrange
from transformers import ASTFeatureExtractor

from mirasol.convert.sources import load_source
from mirasol.convert.towers import AudioTower, VisionTower
from mirasol.convert.windows import inflate_kernel, sample_positions
from mirasol.features import MirasolFeatureExtractor
from mirasol.features.feature_extraction_mirasol import LOOKBACK_SAMPLES
from mirasol.model.configuration_mirasol import MirasolAudioConfig, MirasolVideoConfig
from tests.convert.parts import GRID, IMAGE_SIZE, MEL, MEL_FRAMES, PATCH, write_audio, write_vision


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    return write_vision("siglip", folder), VisionTower(load_source("vision", str(folder)))


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    return write_audio(folder), AudioTower(load_source("audio", str(folder)))


def video_config(tower: VisionTower, **values) -> MirasolVideoConfig:
    return MirasolVideoConfig(**tower.values(4) | values)


def still(kernel: int, stride: int, offset: int = 0) -> list:
    return [[[1, kernel, kernel], [4, stride, stride], [0, offset, offset]]]


@pytest.mark.parametrize("scale", [2, 4])
def test_patches_of_a_larger_picture_have_the_positions_of_the_same_places(vision, scale):
    """Every window covers just what a patch of the pretrained picture covers, in pixels `scale` times as small."""
    model, tower = vision
    size = scale * PATCH
    config = video_config(tower, image_size=scale * IMAGE_SIZE, tubes=still(size, size))
    expected = model.embeddings.position_embedding.weight
    found = tower.weights(config)["embedding.position_embedding"]
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-6)


def test_a_window_between_two_patches_has_the_mean_of_their_positions(vision):
    model, tower = vision
    table = rearrange(
        model.embeddings.position_embedding.weight.detach(), "(row column) dim -> row column dim", row=GRID
    )
    config = video_config(tower, image_size=4 * IMAGE_SIZE, tubes=still(4 * PATCH, 4 * PATCH, offset=2 * PATCH))
    found = tower.weights(config)["embedding.position_embedding"]
    corners = table[:-1, :-1] + table[:-1, 1:] + table[1:, :-1] + table[1:, 1:]
    torch.testing.assert_close(found, rearrange(corners / 4, "row column dim -> (row column) dim"))


def test_positions_are_sampled_row_before_column_and_stay_inside_the_table():
    table = torch.arange(6.0)[:, None].reshape(2, 3, 1)  # 0 1 2 / 3 4 5
    places = torch.tensor([[0.5, 0.0], [0.0, 0.5], [1.0, 1.75], [-1.0, 9.0], [9.0, -1.0]])
    assert sample_positions(table, places)[:, 0].tolist() == [1.5, 0.5, 4.75, 2.0, 3.0]


@pytest.mark.parametrize("size", [(1, 5, 5), (2, 5, 5), (3, 10, 7), (10, 7)])
def test_a_clip_of_one_colour_gives_the_token_of_the_patch_whatever_the_window(size):
    kernel = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    colour = torch.tensor([0.3, -0.5, 0.9])
    expected = (kernel.sum((2, 3)) * colour).sum(1)
    inflated = rearrange(inflate_kernel(kernel, size), "dim (channel rest) -> dim channel rest", channel=3)
    torch.testing.assert_close((inflated.sum(2) * colour).sum(1), expected, rtol=1e-5, atol=1e-5)


def test_wider_patches_of_sound_lie_at_their_centres(audio):
    """Windows of 9 x 7 begin 2 mel frames and 1 band before the patches of 5 x 5 that have the same centres."""
    model, tower = audio
    config = MirasolAudioConfig(**tower.values(MEL_FRAMES) | {"patches": (((9, 7), tower.strides, (0, 0)),)})
    table = rearrange(
        model.embeddings.position_embeddings[0, 2:].detach(), "(mel t) d -> t mel d", mel=(MEL - 5) // 2 + 1
    )
    places = torch.cartesian_prod(torch.arange(8) + 2 / 3, torch.arange(3) + 1 / 2)
    expected = sample_positions(table, places)
    torch.testing.assert_close(tower.weights(config)["embedding.position_embedding"][2:], expected)


@pytest.mark.parametrize("normalised", [True, False])
def test_converted_log_mel_is_that_of_the_source(tmp_path, normalised):
    write_audio(tmp_path)
    theirs = ASTFeatureExtractor(num_mel_bins=MEL, max_length=40, mean=-3.7, std=4.3, do_normalize=normalised)
    theirs.save_pretrained(tmp_path)
    ours = MirasolFeatureExtractor(**AudioTower(load_source("audio", str(tmp_path))).statistics())
    sound = 0.1 * torch.randn(6_400, generator=torch.Generator().manual_seed(0))
    shifted = torch.nn.functional.pad(sound, (LOOKBACK_SAMPLES, 0)).numpy()
    expected = torch.from_numpy(theirs(shifted, sampling_rate=16_000)["input_values"][0])
    # The log of float32 and of float64 power differs by 2e-3 in the quietest bands.
    torch.testing.assert_close(ours(sound, 16_000)["input_features"][0], expected.float(), rtol=0, atol=5e-3)


def test_an_image_processor_that_does_not_normalise_is_followed(tmp_path):
    write_vision("siglip", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "image_mean": [0.5] * 3}))
    tower = VisionTower(load_source("vision", str(tmp_path)))
    assert tower.statistics() == {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
