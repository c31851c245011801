"""Frozen parts stay as they are, LoRA reaches the language model alone, and merging changes no answer."""

import pytest
import torch

from mirasol.train.adapt import adapt, merged_state_dict
from mirasol.train.optimizer import layer_matrices
from mirasol.train.recipe import load_recipe, to_yaml
from mirasol.train.recipe_schema import LoraRecipe, ModelRecipe
from tests.model.tiny import media, questions, tiny_model

LORA = LoraRecipe(rank=3, alpha=5.0)


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapted_model(**recipe):
    model = tiny_model()
    adapt(model, ModelRecipe(**recipe))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def test_frozen_parts_get_no_gradient_and_all_others_do():
    model = tiny_model()
    everything = trained(model)
    adapt(model, ModelRecipe(freeze=("video_encoder", "combiner")))
    frozen = ("model.encoder.video_encoder.", "model.encoder.combiner.")
    assert everything - trained(model) == {name for name in everything if name.startswith(frozen)}
    model(**media(), **questions()).loss.backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved <= trained(model)
    for part in ("audio_encoder.layers", "temporal_model.layers", "decoder.layers"):
        assert [name for name in moved if part in name]


def test_a_frozen_language_model_still_learns_to_look():
    model = tiny_model()
    adapt(model, ModelRecipe(freeze=("language_model",)))
    left = {name for name in trained(model) if name.startswith(("model.decoder.", "lm_head."))}
    assert left and all("cross_attention" in name or "time_projection" in name for name in left)


def test_lora_trains_adapters_and_what_no_language_model_has():
    model = adapted_model(lora=LORA, freeze=("audio_encoder",))
    names = trained(model)
    of_decoder = {name for name in names if name.startswith(("model.decoder.", "lm_head."))}
    assert all(".lora_" in name or "cross_attention" in name or "time_projection" in name for name in of_decoder)
    new = {name for name, _ in model.named_parameters() if "cross_attention" in name or "time_projection" in name}
    assert new and new <= of_decoder
    # A and B of seven matrices in each of two layers.
    assert len([name for name in names if ".lora_" in name]) == 2 * 7 * 2
    assert not [name for name in names if ".audio_encoder." in name]
    assert [name for name in names if ".video_encoder." in name] and [name for name in names if ".combiner." in name]
    assert not [name for name in layer_matrices(model) if "lora" in name or "audio_encoder" in name or "base_" in name]


@torch.no_grad()
def test_merged_weights_say_what_adapted_weights_say():
    model, plain = adapted_model(lora=LORA), tiny_model()
    expected = model(**media(), **questions()).logits
    before = plain(**media(), **questions()).logits
    assert (expected - before).abs().max() > 0.1
    plain.load_state_dict(merged_state_dict(model))
    torch.testing.assert_close(plain(**media(), **questions()).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_part_that_the_model_lacks_cannot_be_frozen():
    with pytest.raises(ValueError, match="model.freeze names audio_encoder, which this model does not have"):
        adapt(tiny_model(use_audio=False, audio_weight=0.0), ModelRecipe(freeze=("audio_encoder",)))


def test_recipe_keys(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {freeze: [video_encoder, audio_encoder], lora: {rank: 4, alpha: 8}}")
    recipe = load_recipe(tmp_path / "recipe.yaml", ["model.lora.dropout=0.1"])
    assert recipe.model.freeze == ("video_encoder", "audio_encoder")
    assert recipe.model.lora == LoraRecipe(rank=4, alpha=8.0, dropout=0.1)
    (tmp_path / "again.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    with pytest.raises(ValueError, match=r"model.freeze.0 must be one of video_encoder, .*found 'video'"):
        load_recipe(tmp_path / "recipe.yaml", ["model.freeze=[video]"])
    with pytest.raises(ValueError, match="model.lora.rank must be at least 1, found 0"):
        load_recipe(tmp_path / "recipe.yaml", ["model.lora.rank=0"])
