"""Options that let the model hold other models' weights: prefix tokens, learned positions, one ViT, biases, scalings.

That they hold them exactly is tested in tests/convert.
"""

import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from mirasol.model.configuration_mirasol import MirasolTextConfig, MirasolVideoConfig
from tests.model.tiny import MEL, MEL_FRAMES, TINY, media, questions, tiny_config, tiny_model

VIT = {"hidden_size": 12, "intermediate_size": 19}
SHARED = {"share_encoder": True, "audio_config": VIT}
EVERY_OPTION = {
    "video_config": {"position_code": "learned", "num_prefix_tokens": 1, "qkv_bias": False, "hidden_act": "relu"},
    "audio_config": {"position_code": "learned", "num_prefix_tokens": 2, "hidden_act": "gelu_pytorch_tanh"},
    "text_config": {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "qk_norm": True},
}


def test_every_parameter_of_every_option_learns():
    model = tiny_model(**EVERY_OPTION)
    model(**media(), **questions()).loss.backward()
    still = {
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    # What only masked vectors and missing media use.
    assert still == {"model.encoder.temporal_model.mask_embedding", "model.encoder.combiner.missing_embedding"}


def test_prefix_tokens_come_first_and_count_as_slots():
    config = tiny_config(**EVERY_OPTION)
    assert config.slot_sizes == (1 + 16, 2 + 6)
    encoder = tiny_model(**EVERY_OPTION).model.encoder.audio_encoder
    features = torch.randn(3, MEL_FRAMES, MEL)
    tokens = encoder.embedding(features[:, None])
    expected = encoder.embedding.prefix_tokens + encoder.embedding.position_embedding[:2]
    assert torch.equal(tokens[:, :2], expected.expand(3, -1, -1))
    assert encoder(features).shape[1] == 8


@torch.no_grad()
def test_one_vit_for_both_senses_equals_two_with_the_same_weights():
    shared, apart = tiny_model(**SHARED), tiny_model(audio_config=VIT)
    state = shared.state_dict()
    missing = set(apart.state_dict()) - set(state)
    assert missing and all(".audio_encoder.layers." in name or ".audio_encoder.norm." in name for name in missing)
    state |= {name: state[name.replace(".audio_encoder.", ".video_encoder.")] for name in missing}
    apart.load_state_dict(state)
    assert torch.equal(shared(**media(), **questions()).logits, apart(**media(), **questions()).logits)


def test_one_vit_for_both_senses_survives_saving_and_learns_from_both(tmp_path):
    model = tiny_model(**SHARED)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(**media(), **questions()).logits, model(**media(), **questions()).logits)
    layer = model.model.encoder.video_encoder.layers[0].mlp[0]
    gradients = []
    for sense in ("video_encoder", "audio_encoder"):
        encoder = getattr(model.model.encoder, sense)
        clips = media()
        values = clips["pixel_values_videos" if sense == "video_encoder" else "input_features"].flatten(0, 1)
        model.zero_grad()
        encoder(values).square().sum().backward()
        gradients.append(layer.weight.grad.clone())
    assert gradients[0].any() and gradients[1].any() and not torch.equal(*gradients)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tiny_config(share_encoder=True), "video_config.hidden_size and audio_config.hidden_size .* 12 and 8"),
        (lambda: MirasolVideoConfig(position_code="rotary"), "position_code must be one of .* found 'rotary'"),
        (lambda: MirasolVideoConfig(hidden_act="golu"), "hidden_act must be one of .*found 'golu'"),
        (
            lambda: MirasolTextConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
            "rope_type must be one of .*llama3.* found 'dynamic'",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(build, message):
    with pytest.raises(StrictDataclassError) as refusal:
        build()
    assert re.search(message, str(refusal.value.__cause__ or refusal.value), re.DOTALL)


def test_rope_theta_of_older_checkpoints_is_read():
    assert MirasolTextConfig(rope_theta=500.0).rope_parameters == {"rope_type": "default", "rope_theta": 500.0}
    assert tiny_config(text_config=TINY["text_config"]).text_config.rope_parameters["rope_theta"] == 10_000.0
