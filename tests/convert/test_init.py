"""`mirasol init` against transformers' own classes: features of the towers, logits of the text, statistics."""

import json

import pytest
import torch
from einops import rearrange
from transformers import (
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    GemmaConfig,
    GemmaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    ViTConfig,
    ViTModel,
)

from mirasol import MirasolForConditionalGeneration, MirasolProcessor
from mirasol.cli import main
from mirasol.convert import init
from mirasol.convert.assemble import _divisors
from tests.convert.parts import (
    DINO,
    EVEN,
    HEAD,
    IMAGE_SIZE,
    LLAMA3,
    MEAN,
    MEL,
    MEL_FRAMES,
    PATCH,
    STD,
    TEXT,
    TEXTS,
    VISIONS,
    VIT,
    VOCAB,
    features_of,
    random_pictures,
    write_audio,
    write_text,
    write_vision,
)

# Sums of floats in another order, two layers deep, on values of order one.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
FRAMES = 4
STILL = {"num_frames": FRAMES, "tubes": [[[1, PATCH, PATCH], [FRAMES, PATCH, PATCH], [0, 0, 0]]]}
CHUNK = {"num_mel_frames": MEL_FRAMES}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0] * 3,
    "long_factor": [2.0] * 3,
    "original_max_position_embeddings": 31,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a SigLIP, an AST and a Llama."""
    root = tmp_path_factory.mktemp("parts")
    write_vision("siglip", root / "siglip")
    write_audio(root / "ast")
    write_text("llama", root / "llama")
    return root


def load(folder):
    return MirasolForConditionalGeneration.from_pretrained(folder).eval()


def clips(model, num_chunks=2):
    config, generator = model.config, torch.Generator().manual_seed(5)
    size = (1, num_chunks, config.num_frames_per_chunk, 3, config.image_size, config.image_size)
    start = config.seconds_per_chunk * torch.arange(num_chunks)[None]
    return {
        "pixel_values_videos": torch.randn(size, generator=generator),
        "input_features": torch.randn(1, num_chunks, config.num_mel_frames_per_chunk, MEL, generator=generator),
        "video_chunk_mask": torch.ones(1, num_chunks, dtype=torch.bool),
        "audio_chunk_mask": torch.ones(1, num_chunks, dtype=torch.bool),
        "chunk_times": torch.stack([start, start + config.seconds_per_chunk], dim=-1),
    }


@pytest.mark.parametrize("name", VISIONS)
@torch.no_grad()
def test_vision_tower_sees_what_its_source_sees(name, parts, tmp_path):
    theirs = write_vision(name, tmp_path / "vision")
    init(
        tmp_path / "vision",
        parts / "ast",
        parts / "llama",
        tmp_path / "out",
        {"video_config": STILL, "audio_config": CHUNK},
    )
    ours, pictures = load(tmp_path / "out").model.encoder.video_encoder, random_pictures(3)
    chunks = torch.randn(3, FRAMES, *pictures.shape[1:])
    chunks[:, 0] = pictures
    torch.testing.assert_close(ours(chunks), features_of(name, theirs, pictures), **CLOSE)


@torch.no_grad()
def test_audio_tower_hears_what_its_source_hears(parts, tmp_path):
    theirs = write_audio(tmp_path / "audio")
    init(parts / "siglip", tmp_path / "audio", parts / "llama", tmp_path / "out", {"audio_config": CHUNK})
    ours, features = load(tmp_path / "out").model.encoder.audio_encoder, torch.randn(3, MEL_FRAMES, MEL)
    expected = theirs(features).last_hidden_state
    prefix, patches = expected[:, :2], expected[:, 2:]
    # AST's patches come band by band, ours column by column.
    patches = rearrange(patches, "chunk (mel mel_frame) dim -> chunk (mel_frame mel) dim", mel=(MEL - 5) // 2 + 1)
    torch.testing.assert_close(ours(features), torch.cat([prefix, patches], dim=1), **CLOSE)


@torch.no_grad()
def test_a_short_chunk_has_the_positions_of_the_middle(parts, tmp_path):
    """A window of 32 columns has patches at 10 times, a chunk of 17 at 5: those of the times 2 to 6."""
    theirs = write_audio(tmp_path / "audio")
    init(parts / "siglip", tmp_path / "audio", parts / "llama", tmp_path / "out", ["audio_config.num_mel_frames=17"])
    table = load(tmp_path / "out").model.encoder.audio_encoder.embedding.position_embedding
    expected = theirs.embeddings.position_embeddings[0, 2:]
    expected = rearrange(expected, "(mel time) dim -> time mel dim", time=10)[2:7].flatten(0, 1)
    torch.testing.assert_close(table[2:], expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_text_before_training_is_the_language_models(name, parts, tmp_path):
    theirs = write_text(name, tmp_path / "text")
    init(parts / "siglip", parts / "ast", tmp_path / "text", tmp_path / "out", {"audio_config": CHUNK})
    ours = load(tmp_path / "out")
    ids = torch.randint(0, VOCAB, (2, 61), generator=torch.Generator().manual_seed(1))
    expected = theirs(ids).logits
    found = ours(**clips(ours), decoder_input_ids=ids).logits
    torch.testing.assert_close(found, expected, **CLOSE)
    assert expected.std() > 0.3  # so that the tolerance means something
    # And with closed gates opened, the clip matters.
    for layer in ours.model.decoder.layers:
        layer.cross_attention_gate.fill_(0.5)
    assert (ours(**clips(ours), decoder_input_ids=ids).logits - expected).abs().max() > 0.01


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
@torch.no_grad()
def test_greedy_text_with_cache_is_the_language_models(name, parts, tmp_path):
    theirs = write_text(name, tmp_path / "text")
    init(parts / "siglip", None, tmp_path / "text", tmp_path / "out")
    ours = load(tmp_path / "out")
    prompt = torch.randint(3, VOCAB, (1, 7), generator=torch.Generator().manual_seed(1))
    media = {name: value for name, value in clips(ours).items() if "audio" not in name and name != "input_features"}
    found = ours.generate(**media, decoder_input_ids=prompt, max_new_tokens=13, do_sample=False)
    ids = prompt
    for _ in range(found.shape[1] - 7):
        ids = torch.cat([ids, theirs(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert found.tolist() == ids.tolist() and found.shape[1] > 10


def test_statistics_and_tokenizer_are_carried_over(parts, tmp_path):
    result = init(
        parts / "siglip", parts / "ast", parts / "llama", tmp_path / "out", {"audio_config": CHUNK}, max_chunks=7
    )
    config = load(tmp_path / "out").config
    processor = MirasolProcessor.from_pretrained(tmp_path / "out")
    processor.check_model_config(config)
    assert (processor.image_processor.image_mean, processor.image_processor.image_std) == (MEAN, STD)
    assert processor.image_processor.image_size == IMAGE_SIZE
    extractor = processor.feature_extractor
    assert (extractor.mean, extractor.std, extractor.num_mel_bins) == (-3.7, 4.3, MEL)
    theirs, text = AutoTokenizer.from_pretrained(parts / "llama"), "which color is named? blue!"
    assert processor.tokenizer(text).input_ids == theirs(text).input_ids
    assert theirs.pad_token_id is None and processor.pad_token_id == processor.tokenizer.eos_token_id
    assert processor.tokenizer.model_max_length == config.text_config.max_position_embeddings == 97
    assert config.text_config.vocab_size > len(processor.tokenizer) == len(theirs)
    assert config.eos_token_id == theirs.eos_token_id and config.decoder_start_token_id == theirs.bos_token_id
    assert config.text_config.rope_parameters == LLAMA3
    assert processor.max_chunks == 7
    counts = result.num_pretrained_parameters, result.num_new_parameters
    assert min(counts) > 1000 and sum(counts) == load(tmp_path / "out").num_parameters()


def test_a_padding_token_of_its_own_is_kept(parts, tmp_path):
    write_text("smollm", tmp_path / "text", pad=True)
    init(parts / "siglip", None, tmp_path / "text", tmp_path / "out")
    tokenizer = MirasolProcessor.from_pretrained(tmp_path / "out").tokenizer
    assert (tokenizer.pad_token, load(tmp_path / "out").config.pad_token_id) == ("<pad>", tokenizer.pad_token_id)


@torch.no_grad()
def test_a_still_clip_gives_the_pictures_tokens_in_every_tube(parts, tmp_path):
    """Tubes are inflated patches: on four equal frames each says what the patch says."""
    init(parts / "siglip", None, parts / "llama", tmp_path / "out", {"video_config": {"num_frames": FRAMES}})
    embedding = load(tmp_path / "out").model.encoder.video_encoder.embedding
    still = random_pictures(2)[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    first, second, picture = embedding(still).chunk(3, dim=1)
    torch.testing.assert_close(first, picture, **CLOSE)
    torch.testing.assert_close(second, picture, **CLOSE)


def test_a_model_without_audio_is_video_only(parts, tmp_path):
    result = init(parts / "siglip", None, parts / "llama", tmp_path / "out")
    model = load(tmp_path / "out")
    assert not model.config.use_audio and not hasattr(model.model.encoder, "audio_encoder")
    assert result.audio_tokens_per_chunk == 0 and "video-only" in str(result)


def test_a_model_without_vision_looks_with_a_new_encoder(parts, tmp_path):
    init(None, parts / "ast", parts / "llama", tmp_path / "out", {"audio_config": CHUNK})
    config = load(tmp_path / "out").config
    assert config.video_config.position_code == "sincos" and config.audio_config.position_code == "learned"


@torch.no_grad()
def test_sound_in_the_vit_of_clip_passes_its_norm_too(parts, tmp_path):
    write_vision("clip", tmp_path / "clip")
    init(tmp_path / "clip", None, parts / "llama", tmp_path / "out", ["share_encoder=true"])
    model = load(tmp_path / "out")
    encoder, mel = model.model.encoder, model.config.audio_config.input_size
    features = torch.randn(1, *mel, generator=torch.Generator().manual_seed(0))
    before = encoder.audio_encoder(features)
    encoder.video_encoder.embedding_norm.weight.mul_(3)
    assert (encoder.audio_encoder(features) - before).abs().max() > 0.1


def test_one_vit_for_both_senses_is_stored_once(parts, tmp_path):
    init(
        parts / "siglip",
        None,
        parts / "llama",
        tmp_path / "out",
        ["share_encoder=true"],
    )
    model = load(tmp_path / "out")
    names = [name for name in model.state_dict() if ".audio_encoder." in name]
    assert names and all(".audio_encoder.embedding." in name for name in names)
    assert model.config.audio_config.hidden_size == model.config.video_config.hidden_size == 12


@pytest.mark.parametrize(
    ("part", "listed", "model_type", "reason"),
    [
        ("vision", "siglip", "bert", "it has another shape"),
        ("vision", "siglip", "dinov3_vit", "it has rotary positions in every layer"),
        ("audio", "audio-spectrogram", "whisper", "two convolutions with an activation between them"),
        ("text", "qwen3", "gemma3_text", "norms after attention and MLP"),
        ("text", "qwen3", "phi", "attention and MLP are parallel"),
    ],
)
def test_other_architectures_are_refused_and_why_and_those_that_fit_listed(
    part, listed, model_type, reason, parts, tmp_path
):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": model_type}))
    names = {"vision": parts / "siglip", "audio": parts / "ast", "text": parts / "llama"} | {part: tmp_path / "other"}
    message = rf"Expected a {part} checkpoint of model_type .*{listed}.*found '{model_type}'.*{reason}"
    with pytest.raises(ValueError, match=message):
        init(**names, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Dinov2Model(Dinov2Config(**DINO, use_swiglu_ffn=True)), "Expected MLPs without gate .*use_swiglu_ffn=True"),
        (
            Phi3ForCausalLM(Phi3Config(**EVEN, pad_token_id=None, rope_parameters=LONGROPE)),
            "rope_type must be one of .*found 'longrope'",
        ),
        (
            GemmaForCausalLM(GemmaConfig(**TEXT, head_dim=HEAD, use_bidirectional_attention=True)),
            "Expected a causal model .*found use_bidirectional_attention=True",
        ),
    ],
    ids=["dinov2_giant", "phi3_longrope", "gemma_bidirectional"],
)
def test_variants_that_do_not_fit_are_refused(model, message, parts, tmp_path):
    write_text("llama", tmp_path / "other")  # its tokenizer
    model.save_pretrained(tmp_path / "other")
    names = {"vision": parts / "siglip", "text": parts / "llama"}
    names["vision" if isinstance(model, Dinov2Model) else "text"] = tmp_path / "other"
    with pytest.raises(ValueError, match=message):
        init(**names, output=tmp_path / "out")


@torch.no_grad()
def test_a_sliding_window_becomes_the_context_beyond_which_the_source_forgets(parts, tmp_path):
    theirs = write_text("mistral_window", tmp_path / "text")
    with pytest.warns(UserWarning, match="its last 61 tokens only .*has 61 instead of 97 tokens"):
        init(parts / "siglip", None, tmp_path / "text", tmp_path / "out")
    ours = load(tmp_path / "out")
    assert ours.config.text_config.max_position_embeddings == 61
    assert MirasolProcessor.from_pretrained(tmp_path / "out").tokenizer.model_max_length == 61
    ids = torch.randint(0, VOCAB, (1, 62), generator=torch.Generator().manual_seed(1))
    media = {name: value for name, value in clips(ours).items() if "audio" not in name and name != "input_features"}
    difference = (ours(**media, decoder_input_ids=ids).logits - theirs(ids).logits).abs()[0].amax(1)
    assert difference[:61].max() < 1e-4 < 1e-3 < difference[61]


def test_a_tower_of_grey_pictures_is_refused(parts, tmp_path):
    ViTModel(ViTConfig(**VIT, image_size=IMAGE_SIZE, patch_size=PATCH, num_channels=1)).save_pretrained(
        tmp_path / "grey"
    )
    with pytest.raises(ValueError, match=r"of 3 channels \(RGB\), found num_channels=1 in .*grey. Pass a tower"):
        init(tmp_path / "grey", None, parts / "llama", tmp_path / "out")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["video_config.hidden_size=16"], r"norm.weight has the shape \(12,\), but this config gives it \(16,\)"),
        (["video_config.hiden_size=16"], r'Config key .*nearest valid key is "video_config.hidden_size"'),
        (["combiner_config.num_latents=999"], "num_latents must not exceed the Combiner's slots"),
        (["audio_config.num_mel_frames=64"], "at most 32 mel frames, .* found 64. Use shorter chunks"),
        (["eos_token_id=3"], "decide eos_token_id, found eos_token_id=3"),
        (["share_encoder=true"], "Leave out the audio checkpoint, or share_encoder"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_numbers(overrides, message, parts, tmp_path):
    with pytest.raises(ValueError, match=message):
        init(
            parts / "siglip",
            parts / "ast",
            parts / "llama",
            tmp_path / "out",
            ["audio_config.num_mel_frames=17", *overrides],
        )
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_not_overwritten(parts, tmp_path):
    with pytest.raises(ValueError, match="Expected a new folder as output"):
        init(parts / "siglip", parts / "ast", parts / "llama", tmp_path)


def test_the_command_says_what_it_made(parts, tmp_path, capsys):
    names = ["--vision", str(parts / "siglip"), "--audio", str(parts / "ast"), "--text", str(parts / "llama")]
    assert main(["init", *names, "-o", str(tmp_path / "out"), "--json", "audio_config.num_mel_frames=16"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["output"] == str(tmp_path / "out") and printed["seconds_per_chunk"] == 0.16
    assert main(["init", "--text", str(parts / "llama"), "-o", str(tmp_path / "other")]) == 2
    assert "at least one of vision and audio" in capsys.readouterr().err


def test_small_pictures_to_predict_divide_the_large_ones():
    """The largest divisor that is not above what was wanted: 12 by 5 is 4, not 1."""
    assert _divisors((12, 7, 9), (5, 7, 2)) == (4, 7, 1)
