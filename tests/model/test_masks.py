"""The masks of the docstrings, word for word, and surprise by hand."""

from math import sqrt

import pytest
import torch

from mirasol.model.modeling_mirasol_combiner import slot_mask
from mirasol.model.modeling_mirasol_temporal import chunk_causal_mask, surprise
from tests.model.tiny import BATCH, CHUNKS, media, tiny_model


def drawn(text):
    """The mask that a drawing shows, 1 where attended."""
    return [[character == "1" for character in line.split()] for line in text.strip().splitlines()]


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (
            [True, True, True],
            """
            1 1 . . . .
            1 1 . . . .
            1 1 1 1 . .
            1 1 1 1 . .
            1 1 1 1 1 1
            1 1 1 1 1 1
            """,
        ),
        (
            [True, False, True],
            """
            1 1 . . . .
            1 1 . . . .
            1 1 1 1 . .
            1 1 1 1 . .
            1 1 . . 1 1
            1 1 . . 1 1
            """,
        ),
    ],
)
def test_chunk_causal_mask(real, expected):
    mask = chunk_causal_mask(torch.tensor([real]), num_latents=2)

    assert mask.shape == (1, 1, 6, 6)
    assert mask[0, 0].tolist() == drawn(expected)


def test_slot_mask_hides_what_is_missing():
    video, audio = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])

    mask = slot_mask(video, audio, (2, 4))

    assert mask.shape == (4, 1, 1, 6)
    assert mask[:, 0, 0].tolist() == drawn("1 1 1 1 1 1\n. . 1 1 1 1\n1 1 . . . .\n1 1 1 1 1 1")


def test_surprise_by_hand():
    predicted, combined, mean = torch.randn(BATCH, CHUNKS, 3, 7), torch.randn(BATCH, CHUNKS, 3, 7), torch.randn(3, 7)
    real = torch.tensor([[True, True, False, True, True], [False, True, True, True, False]])

    found = surprise(predicted, combined, real, mean)

    for clip in range(BATCH):
        assert found[clip, 0] == 0
        for chunk in range(1, CHUNKS):
            if not (real[clip, chunk] and real[clip, chunk - 1]):
                assert found[clip, chunk] == 0
                continue
            cosines = []
            for latent in range(3):
                p = (predicted[clip, chunk - 1, latent] - mean[latent]).tolist()
                c = (combined[clip, chunk, latent] - mean[latent]).tolist()
                dot = sum(a * b for a, b in zip(p, c, strict=True))
                cosines.append(dot / sqrt(sum(a * a for a in p) * sum(b * b for b in c)))
            assert found[clip, chunk].item() == pytest.approx(1 - sum(cosines) / 3, abs=1e-5)


def test_encoder_reports_the_surprise_of_its_predictions():
    model = tiny_model()
    encoder = model.get_encoder()
    with torch.no_grad():
        encoder.feature_mean.normal_()
        output = encoder(**media())
    expected = surprise(output.predicted_features, output.combined_features, output.chunk_mask, encoder.feature_mean)

    assert torch.equal(output.surprise, expected)
    assert (output.surprise[:, 1:] > 0).all()
    assert not output.surprise.requires_grad
