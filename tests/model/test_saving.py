"""A saved model comes back bit for bit, through any of its classes."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoModelForSeq2SeqLM

import mirasol.auto  # noqa: F401  registers the classes
from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration, MirasolModel
from tests.model.tiny import media, questions, tiny_config, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model whose running mean has moved, the folder it was saved to, and what it says."""
    model = tiny_model()
    model.model.encoder.feature_mean.normal_()
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return model, folder, run(model)


def run(model):
    with torch.no_grad():
        return model(**media(), **questions())


def assert_same(found, expected):
    for name in ("logits", "loss", "latent_loss", "video_loss", "audio_loss"):
        assert torch.equal(found[name], expected[name]), name
    assert torch.equal(found.encoder_outputs.surprise, expected.encoder_outputs.surprise)


@pytest.mark.parametrize("auto", [MirasolForConditionalGeneration, AutoModelForSeq2SeqLM, AutoModelForMultimodalLM])
def test_saved_model_comes_back_bit_for_bit(saved, auto):
    model, folder, expected = saved

    again, report = auto.from_pretrained(folder, output_loading_info=True)

    assert type(again) is MirasolForConditionalGeneration
    assert not again.training
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert_same(run(again), expected)


def test_base_model_comes_back_from_the_whole(saved):
    model, folder, expected = saved
    base = AutoModel.from_pretrained(folder)

    assert type(base) is MirasolModel
    with torch.no_grad():
        found = base(**media(), decoder_input_ids=questions()["decoder_input_ids"])
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)


def test_nothing_of_the_model_is_left_to_chance_by_loading(saved):
    """Loading builds on the meta device, where buffers that are not saved come back as garbage: there are none."""
    model = saved[0]
    stored = set(model.state_dict())
    assert {name for name, _ in model.named_buffers()} <= stored
    with torch.device("meta"):
        empty = MirasolForConditionalGeneration(tiny_config())
    assert set(empty.state_dict()) == stored


def test_config_comes_back_equal(saved):
    model, folder, _ = saved
    config = AutoConfig.from_pretrained(folder)

    assert type(config) is MirasolConfig
    assert config.architectures == ["MirasolForConditionalGeneration"]
    assert config.to_diff_dict() == model.config.to_diff_dict()
    assert config.video_config.input_size == model.config.video_config.input_size
    assert config.video_config.num_tokens == model.config.video_config.num_tokens
    assert MirasolConfig.from_dict(model.config.to_dict()).to_dict() == model.config.to_dict()


def test_tied_head_is_stored_once(saved):
    model, folder, _ = saved
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())

    assert "model.decoder.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight
    again = MirasolForConditionalGeneration.from_pretrained(folder)
    assert again.lm_head.weight is again.model.decoder.embed_tokens.weight


def test_untied_head_is_stored_for_itself(tmp_path):
    model = tiny_model(tie_word_embeddings=False, text_config={"tie_word_embeddings": False})
    model.save_pretrained(tmp_path)
    again = MirasolForConditionalGeneration.from_pretrained(tmp_path)

    assert not torch.equal(again.lm_head.weight, again.model.decoder.embed_tokens.weight)
    assert_same(run(again), run(model))


def test_sharded_checkpoint_comes_back_bit_for_bit(saved, tmp_path):
    model, _, expected = saved
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())

    assert len(set(index["weight_map"].values())) > 2
    assert_same(run(MirasolForConditionalGeneration.from_pretrained(tmp_path)), expected)


def test_checkpoint_in_bf16_is_read_as_bf16(saved, tmp_path):
    model = MirasolForConditionalGeneration.from_pretrained(saved[1], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    again = MirasolForConditionalGeneration.from_pretrained(tmp_path)

    assert again.dtype == torch.bfloat16
    assert torch.equal(run(again).logits, run(model).logits)
    back = MirasolForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in back.parameters()} == {torch.float32}


def test_initialisation_touches_every_parameter():
    """No parameter starts at zero but biases and the running mean; norms start at one, gates as the config says."""
    torch.manual_seed(0)
    model = MirasolForConditionalGeneration(tiny_config(text_config={"cross_attention_gate_init": 0.25}))
    for name, value in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        elif name.endswith("cross_attention_gate"):
            assert value == 0.25, name
        else:
            assert 0 < value.std() < 1, name
            assert (value != 0).float().mean() > 0.9, name
