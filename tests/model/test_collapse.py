"""The latent loss alone must not make all chunks alike; without its variance term it does."""

import pytest
import torch

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.modeling_mirasol_temporal import collapse_statistics
from tests.model.test_combiner_kinds import KINDS
from tests.model.tiny import media, questions, tiny_config

STEPS = 300
each_kind = pytest.mark.parametrize("kind", ["transformer", "token_learner"])


def statistics_after_training(kind, steps, **terms):
    """Cosine between chunks, rank and spread of the features after training on the latent loss alone."""
    torch.manual_seed(0)
    config = tiny_config(
        text_weight=0.0,
        video_weight=0.0,
        audio_weight=0.0,
        combiner_config=KINDS[kind],
        temporal_config={"combined_mask_probability": 0.0, **terms},
    )
    model = MirasolForConditionalGeneration(config)
    optimizer = torch.optim.AdamW(model.model.encoder.parameters(), lr=3e-3, weight_decay=0.0)
    text = questions(rows=7, tokens=2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 10)
        loss = model.train()(**media(batch=7, seed=step), **text).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    clips = media(batch=7, seed=steps)
    with torch.no_grad():
        output = model(**clips, **text)
    combined, mask = output.encoder_outputs.combined_features, output.encoder_outputs.chunk_mask
    found = collapse_statistics(combined, mask, combined[mask].mean(dim=0))
    return {**{key: value.item() for key, value in found.items()}, "latent_loss": output.latent_loss.item()}


@pytest.mark.slow
@each_kind
def test_latent_loss_alone_does_not_collapse(unchecked, kind):
    """Rank starts at 24 with the transformer; with a memory at 1.3, as only the first chunk stands out, and rises."""
    found = statistics_after_training(kind, STEPS)
    assert found["spread"] > 0.3
    assert found["effective_rank"] > {"transformer": 10, "token_learner": 2}[kind]
    assert abs(found["chunk_cosine"]) < 0.3


@pytest.mark.slow
@each_kind
def test_without_variance_it_collapses(unchecked, kind):
    """The ablation: the variance term keeps the features apart, not the detached target nor the covariance term."""
    found = statistics_after_training(kind, STEPS // 2, variance_weight=0.0)
    assert found["spread"] < 0.05
    assert found["latent_loss"] < 0.02  # a perfect score that says nothing, after half the steps


def test_collapse_statistics_of_known_features():
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[2, 2:] = False
    mean = torch.randn(2, 6)

    same = torch.randn(2, 6).expand(3, 4, 2, 6)
    noise = 1e-3 * torch.randn(3, 4, 2, 6)
    assert collapse_statistics(same + noise, mask, same[0, 0])["spread"] < 1e-2
    found = collapse_statistics(same, mask, mean)
    assert found["chunk_cosine"].item() == pytest.approx(1.0, abs=1e-5)
    assert found["effective_rank"].item() == pytest.approx(1.0, abs=1e-3)

    apart = torch.zeros(3, 4, 12)
    apart[mask] = torch.eye(12)[:10]  # ten real chunks, each in a direction of its own
    assert collapse_statistics(apart.reshape(3, 4, 2, 6), mask, torch.zeros(2, 6))["spread"].item() == pytest.approx(
        1.0
    )
    found = collapse_statistics(apart.reshape(3, 4, 2, 6) + mean, mask, mean)
    assert found["chunk_cosine"].item() == pytest.approx(0.0, abs=1e-5)
    assert found["effective_rank"].item() == pytest.approx(10.0, abs=1e-2)


def test_collapse_statistics_leave_out_the_common_mean():
    """Chunks that differ from a large mean in directions of their own are apart, not alike."""
    mask, mean = torch.ones(2, 5, dtype=torch.bool), 50 * torch.randn(2, 6)
    apart = torch.eye(12)[:10].reshape(2, 5, 2, 6)

    found = collapse_statistics(apart + mean, mask, mean)

    assert found["chunk_cosine"].item() == pytest.approx(0.0, abs=1e-4)
    assert found["effective_rank"].item() == pytest.approx(10.0, abs=1e-2)
    assert found["spread"].item() == pytest.approx(
        1 / (apart + mean).flatten(2).norm(dim=-1).square().mean().sqrt().item(), rel=1e-3
    )
