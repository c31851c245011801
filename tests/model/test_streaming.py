"""A stream in any pieces, beside any others, at any hour gives what the whole clip gives at once."""

import random

import pytest
import torch
from safetensors.torch import load, save

from mirasol.model.modeling_mirasol_stream import MirasolStreamCache, decoder_window
from tests.model.test_combiner_kinds import KINDS, model_of, ragged
from tests.model.tiny import BATCH, LATENTS, MANY_CHUNKS, media, questions, select, tiny_model

WINDOW, RETAINED = 4, 5
each_kind = pytest.mark.parametrize("kind", KINDS)
each_window = pytest.mark.parametrize("window", [None, 1, WINDOW])
OUTPUTS = ("combined_features", "predicted_features", "surprise", "chunk_mask")


def windowed(kind="transformer", window=WINDOW, retained=RETAINED, **options):
    parts = {"temporal_config": {"window_chunks": window}, "text_config": {"window_chunks": retained}}
    return model_of(kind, **parts, **options)


def pieces(clips, sizes):
    """The clips in consecutive pieces of so many chunks."""
    parts = {name: value.split(sizes, dim=1) for name, value in clips.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]


def random_sizes(total, seed):
    """Numbers of chunks from 1 to 5 that add up to `total`."""
    draw, sizes = random.Random(seed), []
    while sum(sizes) < total:
        sizes.append(min(draw.randint(1, 5), total - sum(sizes)))
    return sizes


@torch.no_grad()
def watch(model, clips, sizes, cache=None):
    """(outputs of all chunks, joined; the last stream cache)."""
    cache, outputs = MirasolStreamCache() if cache is None else cache, []
    for piece in pieces(clips, sizes):
        output = model.advance(cache, **piece)
        cache = output.stream_cache
        outputs.append(output)
    found = {name: torch.cat([output[name] for output in outputs], dim=1) for name in OUTPUTS}
    found["latents"] = torch.cat([output.last_hidden_state for output in outputs], dim=1)
    return found, cache


@torch.no_grad()
def offline(model, clips):
    output = model.get_encoder()(**clips)
    return {**{name: output[name] for name in OUTPUTS}, "latents": output.last_hidden_state}


def assert_as_near_as_fp64(found, expected, exact):
    """At most twice as far from the offline result as that is from its own in fp64, or as fp32 rounds."""
    for name, value in expected.items():
        if value.dtype == torch.bool:
            assert torch.equal(found[name], value)
            continue
        error = (value - exact[name]).abs().max().clamp_min(torch.finfo(torch.float32).eps * value.abs().max())
        assert (found[name] - value).abs().max() <= 2 * error, (name, error)
        assert error < 1e-3 * value.abs().max(), name


@pytest.mark.parametrize("seed", range(2))
@each_window
@each_kind
def test_a_stream_in_any_pieces_equals_the_whole_clip(kind, window, seed):
    """Clips with gaps in picture, in sound and in both."""
    model, exact = windowed(kind, window), windowed(kind, window).double()
    clips = ragged(MANY_CHUNKS)
    model.get_encoder().feature_mean.normal_()
    exact.get_encoder().feature_mean.copy_(model.get_encoder().feature_mean)

    found, _ = watch(model, clips, random_sizes(MANY_CHUNKS, seed))

    assert_as_near_as_fp64(found, offline(model, clips), offline(exact, clips))


@each_kind
def test_a_stream_in_one_piece_is_the_clip_bit_for_bit(kind):
    model, clips = windowed(kind), ragged(MANY_CHUNKS)
    found, expected = watch(model, clips, [MANY_CHUNKS])[0], offline(model, clips)

    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("absent", ["video", "audio"])
def test_a_stream_of_one_modality_equals_the_clip(absent):
    model, exact, clips = windowed(), windowed().double(), media(chunks=MANY_CHUNKS)
    clips[f"{absent}_chunk_mask"][:] = False

    found, _ = watch(model, clips, random_sizes(MANY_CHUNKS, 2))

    assert_as_near_as_fp64(found, offline(model, clips), offline(exact, clips))


@each_kind
def test_streams_of_unequal_age_share_a_batch(kind):
    """One joins after eleven chunks, one after two, one after nine; each goes on as it would have alone."""
    model, exact = windowed(kind), windowed(kind).double()
    clips = [select(ragged(MANY_CHUNKS, batch=3), row) for row in range(3)]
    ages, common = [11, 2, 9], 7
    caches = []
    for clip, age in zip(clips, ages, strict=True):
        begun = {name: value[:, :age] for name, value in clip.items()}
        caches.append(watch(model, begun, random_sizes(age, age))[1])
    together = {
        name: torch.cat([clip[name][:, age : age + common] for clip, age in zip(clips, ages, strict=True)])
        for name in clips[0]
    }

    found, cache = watch(model, together, [2, 1, 4], MirasolStreamCache.cat(caches))

    for row, (clip, age) in enumerate(zip(clips, ages, strict=True)):
        whole = {name: value[:, : age + common] for name, value in clip.items()}
        mine = {name: value[row : row + 1] for name, value in found.items()}
        expected, truth = ({n: v[:, -m.shape[1] :] for (n, v), m in zip(offline(one, whole).items(), mine.values(),
                            strict=True)} for one in (model, exact))  # fmt: skip
        assert_as_near_as_fp64(mine, expected, truth)
        alone, asked = watch(model, whole, [1] * (age + common))[1], cache.rows([row])
        assert torch.equal(asked["latent_mask"][:, -RETAINED:].sum(), alone["latent_mask"].sum())
        torch.testing.assert_close(logits(model, asked), logits(model, alone), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def logits(model, cache):
    text = questions(rows=len(cache["prediction"]))["decoder_input_ids"]
    return model(encoder_outputs=cache.encoder_outputs(), decoder_input_ids=text).logits


@pytest.mark.parametrize("retained", [None, 1, RETAINED])
@pytest.mark.parametrize("kind", ["transformer", "history", "token_learner"])
def test_asking_a_stream_equals_asking_the_clip(kind, retained):
    model, exact = windowed(kind, retained=retained), windowed(kind, retained=retained).double()
    clips, text = ragged(MANY_CHUNKS), questions()["decoder_input_ids"]
    _, cache = watch(model, clips, random_sizes(MANY_CHUNKS, 3))

    with torch.no_grad():
        expected, truth = (one(**clips, decoder_input_ids=text).logits for one in (model, exact))

    assert_as_near_as_fp64({"logits": logits(model, cache)}, {"logits": expected}, {"logits": truth})
    options = {"decoder_input_ids": text[:, :4], "max_new_tokens": 9, "pad_token_id": 0, "eos_token_id": None}
    for beams in (1, 3):
        answer = model.generate(encoder_outputs=cache.encoder_outputs(), num_beams=beams, **options)
        assert torch.equal(answer, model.generate(**clips, num_beams=beams, **options))


def test_asking_changes_nothing_and_projects_only_times():
    model = windowed()
    _, cache = watch(model, media(), [2, 3])
    before, shapes = {name: value.clone() for name, value in cache.items()}, []
    for name in ("k_proj", "v_proj"):
        for layer in model.model.decoder.layers:
            hook = lambda module, inputs, output: shapes.append(tuple(output.shape[:3]))  # noqa: E731
            getattr(layer.cross_attention, name).register_forward_hook(hook)

    logits(model, cache)
    assert shapes == [(BATCH, 5, 1)] * 4
    assert all(torch.equal(cache[name], value) for name, value in before.items())
    del shapes[:]
    watch(model, {name: value[:, :1] for name, value in media().items()}, [1], cache)
    assert shapes == [(BATCH, 1, LATENTS)] * 4  # a chunk is projected once, when it comes


def test_an_older_cache_resumes_as_if_nothing_had_come_after_it():
    model, clips = windowed("history"), media(chunks=MANY_CHUNKS)
    first, *rest = pieces(clips, [9, 1, 1, 1, 11])
    _, cache = watch(model, first, [9])
    expected, _ = watch(model, rest[0], [1], cache)
    watch(model, {name: torch.cat([piece[name] for piece in rest], 1) for name in clips}, [3, 11], cache)

    again, _ = watch(model, rest[0], [1], cache)

    assert all(torch.equal(again[name], value) for name, value in expected.items())


@each_kind
def test_a_saved_cache_resumes_bit_for_bit(kind):
    model, clips = windowed(kind), ragged(MANY_CHUNKS)
    first, rest = pieces(clips, [13, MANY_CHUNKS - 13])
    _, cache = watch(model, first, [13])
    loaded = MirasolStreamCache(load(save({name: value.contiguous() for name, value in cache.items()})))

    (expected, end), (found, loaded_end) = (watch(model, rest, [4, 6], state) for state in (cache, loaded))

    assert set(end) == set(loaded_end)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(logits(model, end), logits(model, loaded_end))


@each_kind
def test_memory_is_flat_once_the_windows_are_full(kind):
    model = windowed(kind)
    clips, cache, sizes = media(batch=1, chunks=3 * RETAINED), MirasolStreamCache(), []
    for piece in pieces(clips, [1] * 3 * RETAINED):
        cache = watch(model, piece, [1], cache)[1]
        stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in cache.values()}
        sizes.append((cache.nbytes, sum(stored.values())))

    full = max(WINDOW, RETAINED) + 1
    assert len(set(sizes[full:])) == 1
    assert sizes[full][0] > sizes[0][0]
    assert cache["temporal_mask"].shape[1] == cache["key_0"].shape[1] == WINDOW - 1  # what the next chunk can read
    assert cache["latents"].shape[1] == RETAINED


def test_the_ten_millionth_chunk_is_like_the_first():
    """Only seconds tell them apart, and these are counted from the oldest chunk that can be asked."""
    model, clips = windowed(), ragged(MANY_CHUNKS)
    clips["chunk_times"] = clips["chunk_times"].double()
    late = {**clips, "chunk_times": clips["chunk_times"] + 0.7 * 10_000_000}
    sizes = random_sizes(MANY_CHUNKS, 4)

    (early, cache), (found, late_cache) = watch(model, clips, sizes), watch(model, late, sizes)

    assert all(torch.equal(found[name], value) for name, value in early.items())
    torch.testing.assert_close(logits(model, late_cache), logits(model, cache), atol=1e-5, rtol=1e-5)
    seconds = late_cache.encoder_outputs().chunk_times
    assert (seconds > 6_999_999).all() and (seconds < 7_000_020).all()


def test_a_long_stream_forgets_what_lies_behind_its_windows():
    """After hundreds of chunks the latents are, bit for bit, those of a stream that began shortly before."""
    model, chunks = windowed(), 200
    clips = media(batch=1, chunks=chunks)
    reach = len(model.model.encoder.temporal_model.layers) * (WINDOW - 1)

    long, _ = watch(model, clips, [1] * chunks)
    late = {name: value[:, chunks - reach - WINDOW - 1 :] for name, value in clips.items()}
    short, _ = watch(model, late, [1] * (reach + WINDOW + 1))

    assert torch.equal(long["latents"][:, -2 * LATENTS :], short["latents"][:, -2 * LATENTS :])
    assert not torch.equal(long["latents"][:, : 2 * LATENTS], short["latents"][:, : 2 * LATENTS])


def test_a_window_hides_just_what_lies_before_it():
    model = windowed(window=3)
    model.model.encoder.temporal_model.layers = model.model.encoder.temporal_model.layers[:1]
    clips = media(chunks=7)
    changed = dict(clips, input_features=clips["input_features"].clone())
    changed["input_features"][:, 2] += 1.0

    before, after = (offline(model, one)["latents"].unflatten(1, (7, LATENTS)) for one in (clips, changed))

    differs = (before != after).flatten(2).any(dim=-1)
    assert differs.tolist() == [[False, False, True, True, True, False, False]] * BATCH


def test_the_text_reads_the_last_real_chunks_and_counts_from_the_oldest():
    real = torch.tensor([[True, True, False, True, False], [False, True, False, False, False], [False] * 5])
    times = torch.arange(5.0)[None, :, None].add(torch.tensor([100.0, 101.0])).expand(3, -1, -1)

    seen, seconds = decoder_window(real, times, 2)

    assert seen.tolist() == [[False, True, False, True, False], [False, True, False, False, False], [False] * 5]
    assert seconds[0, :, 0].tolist() == [-1, 0, 1, 2, 3]
    assert seconds[1, 1].tolist() == [0, 1]
    assert seconds.isfinite().all()
    same = decoder_window(real, times, None)
    assert same[0] is real and same[1] is times


def test_a_text_window_is_a_clip_of_its_chunks_alone():
    """But for what the temporal model has told their latents of the chunks before."""
    model, whole = windowed(retained=2), tiny_model()
    clips, text = media(), questions()["decoder_input_ids"]
    with torch.no_grad():
        output = model(**clips, decoder_input_ids=text)
        watched = output.encoder_outputs
        watched.last_hidden_state = watched.last_hidden_state[:, -2 * LATENTS :]
        watched.chunk_mask = watched.chunk_mask[:, -2:]
        watched.chunk_times = watched.chunk_times[:, -2:] - watched.chunk_times[:, -2:-1, :1]
        expected = whole(encoder_outputs=watched, decoder_input_ids=text).logits

    torch.testing.assert_close(output.logits, expected, atol=3e-5, rtol=1e-4)


def test_misused_caches_are_refused(unchecked):
    model, other = windowed(), windowed("history")
    cache = watch(model, media(), [5])[1]
    with pytest.raises(ValueError, match=r"2 streams in stream_cache, found 1 rows.*rows\(\[...\]\)"):
        watch(model, select(media(), 0), [5], cache)
    with pytest.raises(ValueError, match="at least one chunk, found none"):
        MirasolStreamCache().encoder_outputs()
    with pytest.raises(ValueError, match="streams of one model"):
        MirasolStreamCache.cat([cache, watch(other, media(), [5])[1]])
