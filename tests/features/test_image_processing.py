"""Frames: the centred square, resized as float arithmetic would, normalised."""

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from mirasol.features import MirasolVideoProcessor

FRAMES, HEIGHT, WIDTH, SIZE = 3, 53, 71, 29


def frames(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth colour ramps with some noise: what a resize must keep."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, None, :, None] + np.zeros((FRAMES, height, width, 3))
    return (ramp + rng.integers(0, 55, ramp.shape)).astype(np.uint8)


def test_resize_equals_that_of_pillow_on_the_centred_square():
    clip = frames()
    left = (WIDTH - HEIGHT) // 2
    theirs = [
        np.asarray(Image.fromarray(picture[:, left : left + HEIGHT]).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        for picture in clip
    ]
    ours = MirasolVideoProcessor(SIZE).crop_and_resize(clip)
    ours = rearrange(ours, "frame channel height width -> frame height width channel").numpy()
    assert np.abs(ours.astype(int) - np.stack(theirs)).max() <= 1  # both round 8-bit fixed-point weights


def test_crop_fraction_keeps_the_centre():
    clip = np.zeros((1, 10, 14, 3), np.uint8)
    clip[:, 3:7, 5:9] = 255  # the central 4 x 4 of the central 10 x 10
    assert (MirasolVideoProcessor(4, crop_fraction=0.4).crop_and_resize(clip) == 255).all()
    assert MirasolVideoProcessor(10).crop_and_resize(clip).sum() == 16 * 3 * 255


@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (WIDTH, HEIGHT), (7, 113), (SIZE, SIZE), (1, 1)])
def test_any_size_gives_a_square(height, width):
    values = MirasolVideoProcessor(SIZE)(frames(height, width))["pixel_values_videos"]
    assert values.shape == (1, FRAMES, 3, SIZE, SIZE)
    assert values.is_contiguous()
    assert values.min() >= -1 and values.max() <= 1


def test_colours_are_normalised_per_channel():
    clip = np.zeros((1, 2, 2, 3), np.uint8)
    clip[..., 1] = 255
    processor = MirasolVideoProcessor(2, image_mean=(0.5, 0.25, 0.0), image_std=(0.5, 0.5, 2.0))
    values = processor(clip)["pixel_values_videos"]
    torch.testing.assert_close(values[0, 0, :, 0, 0], torch.tensor([-1.0, 1.5, 0.0]))


def test_frames_stay_as_they_were_also_when_read_only_or_strided():
    clip = frames()
    processor = MirasolVideoProcessor(SIZE)
    expected = processor(clip)["pixel_values_videos"]
    wide = np.repeat(clip, 2, axis=2)[:, :, ::2]
    clip.flags.writeable = False
    assert torch.equal(processor(clip)["pixel_values_videos"], expected)
    assert torch.equal(processor(wide)["pixel_values_videos"], expected)
    assert np.array_equal(clip, frames())


def test_saved_processor_is_loaded_with_its_values(tmp_path):
    MirasolVideoProcessor(SIZE, crop_fraction=0.7, image_mean=(0.1, 0.2, 0.3)).save_pretrained(tmp_path)
    loaded = MirasolVideoProcessor.from_pretrained(tmp_path)
    assert (loaded.image_size, loaded.crop_fraction, loaded.image_mean) == (SIZE, 0.7, [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (frames()[0], r"\[frame, height, width, 3\], but these have \[53, 71, 3\]: pass RGB"),
        (frames().transpose(0, 3, 1, 2), r"but these have \[3, 3, 53, 71\]: pass RGB pictures with the colours last"),
        (frames()[:0], r"but these have \[0, 53, 71, 3\]"),
        (frames() / 255, "uint8 with values 0 to 255, but these are float64: pass them as they were decoded"),
        ([frames(), frames()[:1]], r"equally many frames, but these have \[1, 3\]: use MirasolProcessor"),
    ],
)
def test_wrong_frames_are_refused_with_a_remedy(clip, message):
    with pytest.raises(ValueError, match=message):
        MirasolVideoProcessor(SIZE)(clip)


def test_wrong_crop_fraction_is_refused():
    with pytest.raises(ValueError, match="above 0 and at most 1, but it is 1.5: pass 1.0"):
        MirasolVideoProcessor(SIZE, crop_fraction=1.5)


def test_crop_center_moves_the_square_and_stays_inside_the_frame():
    clip = np.zeros((1, 10, 20, 3), np.uint8)
    clip[:, 6:10, 13:17] = 255  # centre at x = 15 of 20, y = 8 of 10
    assert (MirasolVideoProcessor(4, crop_fraction=0.4, crop_center=(0.75, 0.8)).crop_and_resize(clip) == 255).all()
    assert (MirasolVideoProcessor(4, crop_fraction=0.4, crop_center=(0.75, 1.0)).crop_and_resize(clip) == 255).all()
    assert (MirasolVideoProcessor(4, crop_fraction=0.4, crop_center=(0.5, 0.5)).crop_and_resize(clip) == 0).any()
    with pytest.raises(ValueError, match=r"crop_center is \(x, y\).*it is \(0.5, 1.2\)"):
        MirasolVideoProcessor(4, crop_center=(0.5, 1.2))


def test_a_tall_frame_is_cut_as_a_wide_one_on_its_side():
    wide = MirasolVideoProcessor(SIZE, crop_fraction=0.8).crop_and_resize(frames())
    tall = MirasolVideoProcessor(SIZE, crop_fraction=0.8).crop_and_resize(frames().transpose(0, 2, 1, 3))
    turned = rearrange(tall, "frame channel row column -> frame channel column row")
    assert (turned.int() - wide.int()).abs().max() <= 1  # both axes round 8-bit fixed-point weights
