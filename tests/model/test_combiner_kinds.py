"""Every kind of Combiner keeps the same promises: causal, the same in pieces, blind to what is masked."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.modeling_mirasol_encoder import COMBINERS
from tests.model.tiny import BATCH, CHUNKS, LATENTS, MANY_CHUNKS, media, questions, select, tiny_config, tiny_model

HISTORY = 3
MEMORY = 17
# reason for tolerances in this file: other numbers of rows sum in another order
CLOSE = {"atol": 3e-5, "rtol": 1e-4}


def ttm(summarizer):
    return {
        "combiner_type": "ttm",
        "summarizer": summarizer,
        "memory_size": MEMORY,
        "summarizer_hidden_size": 13,
        "num_write_tokens": 3,
    }


KINDS: dict[str, dict] = {
    "transformer": {},
    "history": {"num_history_chunks": HISTORY},
    "token_learner": ttm("token_learner"),
    "multi_head": ttm("multi_head"),
    "add_erase": ttm("add_erase"),
    "perceiver": {"combiner_type": "perceiver"},
    "learned_tokens": {"combiner_type": "learned_tokens"},
    "mean_pool": {"combiner_type": "mean_pool"},
}
REMEMBERING = ["history", "token_learner", "multi_head", "add_erase"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(kind, **options):
    model = tiny_model(combiner_config=KINDS[kind], **options)
    if kind in ("add_erase", "multi_head"):  # weights this large would multiply a memory's rounding at every chunk
        with torch.no_grad():
            for name, parameter in model.model.encoder.combiner.unit.write.named_parameters():
                if "over_channels" in name or "o_proj" in name:
                    parameter *= 0.1
    return model


def ragged(chunks=CHUNKS, batch=BATCH):
    """Clips with gaps: chunks without picture, without sound, without both, also first and last."""
    clips = media(batch=batch, chunks=chunks)
    generator = torch.Generator().manual_seed(3)
    for mask in ("video_chunk_mask", "audio_chunk_mask"):
        clips[mask] = torch.rand(batch, chunks, generator=generator) > 0.4
    clips["video_chunk_mask"][0, 1] = clips["audio_chunk_mask"][0, 1] = False
    return clips


def features(chunks=MANY_CHUNKS):
    """What encoders would give for ragged clips: the arguments of a Combiner."""
    clips, generator = ragged(chunks), torch.Generator().manual_seed(0)
    video = torch.randn(BATCH, chunks, 16, 12, generator=generator)
    audio = torch.randn(BATCH, chunks, 6, 8, generator=generator)
    return [video, audio, clips["video_chunk_mask"], clips["audio_chunk_mask"]]


def encode(model, clips):
    with torch.no_grad():
        return model.get_encoder()(**clips)


@pytest.mark.parametrize("modality", ["pixel_values_videos", "input_features"])
@each_kind
def test_nothing_known_depends_on_the_future(kind, modality):
    model, clips, now = model_of(kind), media(chunks=MANY_CHUNKS), 7
    changed = dict(clips, **{modality: clips[modality].clone()})
    changed[modality][:, now:] += torch.randn_like(changed[modality][:, now:])

    before, after = encode(model, clips), encode(model, changed)

    for name in ("combined_features", "predicted_features", "surprise"):
        assert torch.equal(before[name][:, :now], after[name][:, :now]), name
    latents = before.last_hidden_state == after.last_hidden_state
    assert latents[:, : now * LATENTS].all()
    assert (before.combined_features != after.combined_features).flatten(2).any(dim=-1)[:, now:].all()


@pytest.mark.parametrize("kind", REMEMBERING)
def test_the_past_is_remembered(kind):
    """One chunk changes all that come after it; with history those that its layers reach, and no more."""
    combiner = model_of(kind).model.encoder.combiner
    video, audio, *_ = features()
    real = torch.ones(BATCH, MANY_CHUNKS, dtype=torch.bool)
    changed = video.clone()
    changed[:, 4] += 1.0

    with torch.no_grad():
        before, after = (combiner(values, audio, real, real)[0] for values in (video, changed))

    differs = (before != after).flatten(2).any(dim=-1)
    last = 4 + HISTORY * len(combiner.layers) if kind == "history" else MANY_CHUNKS - 1
    assert not differs[:, :4].any()
    assert differs[:, 4 : last + 1].all()
    assert not differs[:, last + 1 :].any()


@each_kind
def test_pieces_equal_the_whole(kind):
    combiner = model_of(kind).model.encoder.combiner
    inputs = features()
    with torch.no_grad():
        whole, last = combiner(*inputs)
        cache, found = None, []
        for piece in zip(*(value.split([1, 1, 5, 2, 9, 1, 4], dim=1) for value in inputs), strict=True):
            combined, cache = combiner(*piece, stream_cache=cache)
            found.append(combined)

    torch.testing.assert_close(torch.cat(found, dim=1), whole, **CLOSE)
    assert set(cache) == set(last)
    for name, expected in last.items():
        torch.testing.assert_close(cache[name], expected, **CLOSE)
        assert len(expected) == BATCH
    assert bool(last) == (kind in REMEMBERING)


@each_kind
def test_each_clip_of_a_batch_equals_the_clip_alone_and_unpadded(kind):
    model = model_of(kind)
    clips, lengths = ragged(), [CHUNKS, 3]
    for mask in ("video_chunk_mask", "audio_chunk_mask"):
        clips[mask][1, lengths[1] :] = False

    together = encode(model, clips)
    for row, length in enumerate(lengths):
        alone = encode(model, select(clips, row, length))
        for name in ("combined_features", "predicted_features", "surprise"):
            torch.testing.assert_close(together[name][row : row + 1, :length], alone[name], **CLOSE)


@each_kind
def test_chunks_missing_at_the_start_equal_a_clip_that_starts_later(kind):
    combiner = model_of(kind).model.encoder.combiner
    inputs = features(CHUNKS + 2)
    for mask in inputs[2:]:
        mask[:, :2] = False

    with torch.no_grad():
        found, expected = combiner(*inputs)[0], combiner(*(value[:, 2:] for value in inputs))[0]

    torch.testing.assert_close(found[:, 2:], expected, **CLOSE)


@each_kind
def test_what_is_masked_changes_nothing_bit_for_bit(kind):
    combiner = model_of(kind).model.encoder.combiner
    video, audio, *masks = features()
    dirty = [values.clone() for values in (video, audio)]
    for values, mask in zip(dirty, masks, strict=True):
        values[~mask] = float("nan")

    with torch.no_grad():
        (expected, cache), (found, found_cache) = combiner(video, audio, *masks), combiner(*dirty, *masks)

    assert found.isfinite().all()
    assert torch.equal(found, expected)
    for name, value in cache.items():
        assert torch.equal(found_cache[name], value), name


@pytest.mark.parametrize("kind", REMEMBERING)
def test_a_chunk_without_picture_and_sound_is_not_remembered(kind):
    """What comes after it is as if its picture had been another, and the memory is left as it is."""
    combiner = model_of(kind).model.encoder.combiner
    inputs = features(CHUNKS)
    with torch.no_grad():
        _, cache = combiner(*inputs)
        nothing = [value[:, :1] for value in inputs[:2]] + [torch.zeros(BATCH, 1, dtype=torch.bool)] * 2
        combined, after = combiner(*nothing, stream_cache=cache)

    assert combined.isfinite().all()
    if kind == "history":
        assert not after["history_mask"][:, -1].any()
        assert torch.equal(after["history"][:, :-1], cache["history"][:, 1:])
    else:
        assert torch.equal(after["memory"], cache["memory"])


@each_kind
def test_gradient_reaches_every_parameter_through_both_modalities(kind):
    model = model_of(kind).train()
    clips = media()
    clips["video_chunk_mask"][0, ::2] = False
    clips["audio_chunk_mask"][1, ::2] = False

    model(**clips, **questions()).loss.backward()

    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@each_kind
def test_eager_equals_sdpa(kind):
    clips = ragged()
    expected, found = (encode(model_of(kind, attention=attention), clips) for attention in ("eager", "sdpa"))

    torch.testing.assert_close(found.combined_features, expected.combined_features, **CLOSE)


@each_kind
def test_saved_model_comes_back_bit_for_bit(kind, tmp_path):
    model = model_of(kind)
    model.save_pretrained(tmp_path)
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)

    assert type(again.encoder.combiner) is COMBINERS[again.config.combiner_config.combiner_type]
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys")), report
    assert torch.equal(encode(again, ragged()).last_hidden_state, encode(model, ragged()).last_hidden_state)


@each_kind
def test_bf16_is_finite_and_trains(kind):
    model = tiny_model(combiner_config=KINDS[kind]).to(torch.bfloat16).train()
    output = model(**ragged(), **questions())
    output.loss.backward()

    assert output.encoder_outputs.combined_features.dtype == torch.bfloat16
    assert output.loss.isfinite()


@each_kind
def test_a_video_only_model_has_no_slots_of_sound(kind):
    combiner = model_of(kind, use_audio=False, audio_weight=0.0).model.encoder.combiner
    video, _, mask, _ = features(CHUNKS)

    with torch.no_grad():
        combined, _ = combiner(video, None, mask, torch.zeros_like(mask))

    assert combined.shape == (BATCH, CHUNKS, LATENTS, 20)
    assert "audio_projection" not in dict(combiner.named_modules())


@each_kind
def test_initialisation_tells_the_vectors_of_a_chunk_apart(kind):
    """From the first step on: parameters are of order one at most, and no two of the m vectors are one."""
    torch.manual_seed(0)
    model = MirasolForConditionalGeneration(tiny_config(combiner_config=KINDS[kind])).eval()
    for name, value in model.model.encoder.combiner.named_parameters():
        if value.ndim > 1:
            assert 0 < value.std() < 1, name
            assert (value != 0).all(), name

    combined = encode(model, media(chunks=1)).combined_features[0, 0]

    distance = torch.cdist(combined, combined) + 1e3 * torch.eye(LATENTS)
    assert distance.min() > 1e-2


def flops(combiner, inputs, cache=None):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _, cache = combiner(*inputs, stream_cache=cache)
    return counter.get_total_flops(), cache


@each_kind
def test_every_chunk_costs_the_same(kind):
    combiner = model_of(kind, attention="eager").model.encoder.combiner  # plain products, which the counter counts
    inputs = features(CHUNKS)
    each, cache = [], None
    for chunk in range(CHUNKS):
        count, cache = flops(combiner, [value[:, chunk : chunk + 1] for value in inputs], cache)
        each.append(count)

    assert each[0] > 0
    assert set(each) == {each[0]}
    assert flops(combiner, inputs)[0] == CHUNKS * each[0]
