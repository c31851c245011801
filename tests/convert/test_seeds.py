"""Parity over freshly drawn checkpoints; `pytest -m slow -rP tests/convert/test_seeds.py` shows the differences."""

import sys

import pytest
import torch

from mirasol.convert.language import text_values, text_weights
from mirasol.convert.sources import load_source
from mirasol.convert.towers import VisionTower
from mirasol.model.configuration_mirasol import MirasolTextConfig, MirasolVideoConfig
from mirasol.model.modeling_mirasol_decoder import MirasolTextDecoder
from mirasol.model.modeling_mirasol_encoders import MirasolVideoEncoder
from tests.convert.parts import PATCH, TEXTS, VISIONS, VOCAB, features_of, random_pictures, write_text, write_vision

SEEDS = range(11, 16)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums of floats in another order, on values of order one


def vision_pair(name, folder, seed):
    theirs = write_vision(name, folder, seed)
    tower = VisionTower(load_source("vision", str(folder)))
    config = MirasolVideoConfig(**tower.values(1) | {"tubes": [[[1, PATCH, PATCH], [1, PATCH, PATCH], [0, 0, 0]]]})
    ours = MirasolVideoEncoder(config).eval()
    ours.load_state_dict(tower.weights(config))
    pictures = random_pictures(3)
    return ours(pictures[:, None]), features_of(name, theirs, pictures)


def text_pair(name, folder, seed):
    theirs = write_text(name, folder, seed=seed)
    source = load_source("text", str(folder))
    config = MirasolTextConfig(**text_values(source))
    config._attn_implementation = "sdpa"
    weights = text_weights(source)
    ours = MirasolTextDecoder(config, latent_size=8).eval()
    place = "model.decoder."
    missing = ours.load_state_dict({n.removeprefix(place): w for n, w in weights.items() if place in n}, strict=False)
    assert not missing.unexpected_keys
    assert all("cross_attention" in key or "time_projection" in key for key in missing.missing_keys)
    ids = torch.randint(0, VOCAB, (2, 61), generator=torch.Generator().manual_seed(seed))
    times = torch.tensor([[[0.0, 1.0]]]).expand(2, 1, 2)
    out = ours(ids, None, torch.randn(2, 1, 3, 8), torch.ones(2, 1, dtype=torch.bool), times).last_hidden_state
    return out @ weights.get("lm_head.weight", ours.embed_tokens.weight).T, theirs(ids).logits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*sliding_window")
@pytest.mark.parametrize(
    ("name", "pair"), [(name, vision_pair) for name in VISIONS] + [(name, text_pair) for name in TEXTS]
)
@torch.no_grad()
def test_every_parent_agrees_on_every_seed(name, pair, tmp_path):
    largest = 0.0
    for seed in SEEDS:
        found, expected = pair(name, tmp_path / str(seed), seed)
        torch.testing.assert_close(found, expected, **CLOSE)
        largest = max(largest, (found - expected).abs().max().item())
    sys.stdout.write(f"{name}: largest difference {largest:.1e} on values of deviation {expected.std():.2f}\n")
