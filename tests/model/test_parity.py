"""With copied weights, our layers are transformers' own: numerical truth from outside."""

import torch
from einops import rearrange
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig
from transformers.models.vit.modeling_vit import ViTLayer

from mirasol.model.configuration_mirasol import MirasolTransformerConfig
from mirasol.model.modeling_mirasol_layers import MirasolEncoderLayer
from tests.model.tiny import BATCH, PAD, TOKENS, enliven, media, questions, tiny_model

# reason for tolerances in this file: the same sums, keys and values from one fused projection
CLOSE = {"atol": 2e-5, "rtol": 1e-5}


def test_encoder_layer_equals_vit_layer():
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 19, "layer_norm_eps": 1e-6}
    theirs = enliven(ViTLayer(ViTConfig(**sizes, qkv_bias=True, attn_implementation="sdpa"))).eval()
    config = MirasolTransformerConfig(**sizes)
    config._attn_implementation = "sdpa"
    ours = MirasolEncoderLayer(config).eval()
    attention = theirs.attention
    ours.load_state_dict(
        {
            "attention_norm.weight": theirs.layernorm_before.weight,
            "attention_norm.bias": theirs.layernorm_before.bias,
            "attention.q_proj.weight": attention.q_proj.weight,
            "attention.q_proj.bias": attention.q_proj.bias,
            "attention.kv_proj.weight": torch.cat([attention.k_proj.weight, attention.v_proj.weight]),
            "attention.kv_proj.bias": torch.cat([attention.k_proj.bias, attention.v_proj.bias]),
            "attention.o_proj.weight": attention.o_proj.weight,
            "attention.o_proj.bias": attention.o_proj.bias,
            "mlp_norm.weight": theirs.layernorm_after.weight,
            "mlp_norm.bias": theirs.layernorm_after.bias,
            "mlp.0.weight": theirs.mlp.fc1.weight,
            "mlp.0.bias": theirs.mlp.fc1.bias,
            "mlp.2.weight": theirs.mlp.fc2.weight,
            "mlp.2.bias": theirs.mlp.fc2.bias,
        }
    )
    hidden_states = torch.randn(BATCH, TOKENS, 12)

    with torch.no_grad():
        expected = theirs(hidden_states)
        torch.testing.assert_close(ours(hidden_states), expected, **CLOSE)
        torch.testing.assert_close(ours(hidden_states, num_queries=5), expected[:, -5:], **CLOSE)


def llama_and_mirasol():
    """A random Llama with grouped heads, and a Mirasol whose text decoder holds its weights behind closed gates."""
    model = tiny_model()
    text = model.config.text_config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            num_hidden_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            head_dim=text.head_dim,
            intermediate_size=text.intermediate_size,
            rms_norm_eps=text.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": text.rope_parameters["rope_theta"]},
            tie_word_embeddings=True,
        )
    )
    theirs = enliven(theirs, seed=1).eval()
    weights = {"embed_tokens.weight": theirs.model.embed_tokens.weight, "norm.weight": theirs.model.norm.weight}
    for i, layer in enumerate(theirs.model.layers):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"layers.{i}.self_attention.{name}.weight"] = getattr(layer.self_attn, name).weight
        for name in ("gate_proj", "up_proj", "down_proj"):
            weights[f"layers.{i}.{name}.weight"] = getattr(layer.mlp, name).weight
        weights[f"layers.{i}.self_attention_norm.weight"] = layer.input_layernorm.weight
        weights[f"layers.{i}.mlp_norm.weight"] = layer.post_attention_layernorm.weight
    left = model.model.decoder.load_state_dict(weights, strict=False)
    assert left.unexpected_keys == []
    assert all("cross_attention" in name or "time_projection" in name for name in left.missing_keys)
    for layer in model.model.decoder.layers:
        torch.nn.init.zeros_(layer.cross_attention_gate)
    return theirs, model


def test_decoder_behind_closed_gates_equals_llama():
    theirs, ours = llama_and_mirasol()
    text = questions()["decoder_input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(ours(**media(), decoder_input_ids=text).logits, theirs(text).logits, **CLOSE)

        mask = torch.ones_like(text)
        mask[1, :5], text[1, :5] = 0, PAD
        position = (mask.cumsum(dim=-1) - 1).clamp_min(0)
        found = ours(**media(), decoder_input_ids=text, decoder_attention_mask=mask).logits
        expected = theirs(text, attention_mask=mask, position_ids=position).logits
        torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], **CLOSE)


def test_decoder_behind_closed_gates_says_what_llama_says():
    theirs, ours = llama_and_mirasol()
    prompt = questions(tokens=4)["decoder_input_ids"]
    options = {"max_new_tokens": 9, "pad_token_id": PAD, "eos_token_id": None, "do_sample": False}

    found = ours.generate(**media(), decoder_input_ids=prompt, **options)

    assert torch.equal(found, theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **options))


def test_open_gates_add_what_the_latents_say():
    theirs, ours = llama_and_mirasol()
    text = questions()["decoder_input_ids"]
    torch.nn.init.constant_(ours.model.decoder.layers[-1].cross_attention_gate, 0.1)

    with torch.no_grad():
        found = ours(**media(), decoder_input_ids=text).logits
        assert (found != theirs(text).logits).any(dim=-1).all()


def test_cross_attention_by_hand():
    """Text of clip b attends to the latents of clip b, head by head, each key/value head serving two query heads."""
    model = tiny_model(attention="eager")
    layer = model.model.decoder.layers[0].cross_attention
    text, latents, times = torch.randn(2 * BATCH, 3, 16), torch.randn(BATCH, 3, 2, 20), torch.randn(BATCH, 3, 1, 20)
    mask = torch.ones(BATCH, 6, dtype=torch.bool)
    mask[1, 4:] = False

    with torch.no_grad():
        found, _ = layer(text, latents, times, None, mask, None)
        latents = (latents + times).flatten(1, 2)  # both latents of a chunk get the code of its time
        for row in range(2 * BATCH):
            clip, heads = row // 2, []
            keys = rearrange(layer.k_proj(latents[clip][mask[clip]]), "k (h d) -> h k d", h=2)
            values = rearrange(layer.v_proj(latents[clip][mask[clip]]), "k (h d) -> h k d", h=2)
            queries = rearrange(layer.q_proj(text[row]), "t (h d) -> h t d", h=4)
            for head in range(4):
                share = torch.softmax(queries[head] @ keys[head // 2].T / 6**0.5, dim=-1)
                heads.append(share @ values[head // 2])
            torch.testing.assert_close(found[row], layer.o_proj(torch.cat(heads, dim=-1)), **CLOSE)
