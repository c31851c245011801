"""What is not needed is not computed and not copied: counted in calls, FLOPs, bytes and pointers."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.model.test_generation import answer, prompts, short_clips
from tests.model.tiny import (
    BATCH,
    CHUNKS,
    LATENTS,
    MANY_CHUNKS,
    TOKENS,
    media,
    questions,
    select,
    tiny_model,
    with_indices,
)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def flops(function, *args, **kwargs) -> dict[str, int]:
    """Floating-point operations of a call: in all, and by module."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        function(*args, **kwargs)
    return {"all": counter.get_total_flops()} | {
        name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()
    }


class CountOperations(TorchDispatchMode):
    """Counts the tensor operations that are run."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def calls_of(module) -> list:
    """A list that grows with every call of the module."""
    calls: list = []
    module.register_forward_hook(lambda module, args, output: calls.append(output))
    return calls


def test_padded_chunks_cost_the_encoders_nothing(model):
    encoder = model.get_encoder()
    towers = ("MirasolEncoder.video_encoder", "MirasolEncoder.audio_encoder")
    long, short = select(media(), 0), select(media(), 1, chunks=2)
    padded = media()
    for modality in ("video", "audio"):
        padded[f"{modality}_chunk_mask"][1, 2:] = False

    alone = [flops(encoder, **clips) for clips in (long, short)]
    together = flops(encoder, **with_indices(padded))

    for tower in towers:
        assert together[tower] == alone[0][tower] + alone[1][tower]
        assert flops(encoder, **padded)[tower] == 2 * alone[0][tower]  # without the collator's indices


def test_a_missing_modality_costs_its_encoder_one_chunk(model):
    """One, not none: every tower runs at every step, or sharded training deadlocks."""
    encoder, silent = model.get_encoder(), media()
    silent["audio_chunk_mask"][:] = False

    found = flops(encoder, **with_indices(silent))["MirasolEncoder.audio_encoder"]
    assert found * BATCH * CHUNKS == flops(encoder, **with_indices(media()))["MirasolEncoder.audio_encoder"]


def test_no_loop_over_chunks(model):
    counts = []
    for chunks in (CHUNKS, MANY_CHUNKS):
        with torch.no_grad(), CountOperations() as operations:
            model(**with_indices(media(chunks=chunks)), **questions())
        counts.append(operations.count)

    assert counts[0] == counts[1]


def test_encoders_grow_with_frames_and_not_faster(model):
    encoder = model.get_encoder()
    few, many = (flops(encoder, **media(chunks=chunks)) for chunks in (CHUNKS, MANY_CHUNKS))

    for part in ("video_encoder", "audio_encoder", "combiner"):
        name = f"MirasolEncoder.{part}"
        assert many[name] * CHUNKS == few[name] * MANY_CHUNKS


def test_a_second_question_costs_the_decoder_only():
    model = tiny_model()
    watched = calls_of(model.get_encoder())
    first = flops(model.generate, **media(), **prompts(), max_new_tokens=3, eos_token_id=None)
    assert len(watched) == 1

    second = flops(model.generate, encoder_outputs=watched[0], **prompts(), max_new_tokens=3, eos_token_id=None)
    assert len(watched) == 1
    encoder = flops(model.get_encoder(), **media())["all"]
    assert second["all"] == first["all"] - encoder
    assert second["all"] < 0.5 * first["all"]  # in a model whose parts are all tiny


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
def test_latents_are_projected_once_for_all_words_and_beams(options):
    model = tiny_model()
    projections = [calls_of(layer.cross_attention.k_proj) for layer in model.model.decoder.layers]
    times = calls_of(model.model.decoder.time_projection)
    ids = answer(model, **short_clips(), **prompts(), eos_token_id=None, **options)

    assert ids.shape[1] == prompts()["decoder_input_ids"].shape[1] + 9
    for calls, count in [*((calls, 2) for calls in projections), (times, 1)]:  # latents and codes of their times
        assert len(calls) == count
        assert {len(output) for output in calls} == {BATCH}  # rows are clips, not beams


def test_beams_share_keys_and_values_of_their_clip(model):
    addresses = set()

    def look(module, args, kwargs, output):
        cache = output.past_key_values
        cross = cache.cross_attention_cache.layers[0]
        assert cross.keys.shape == (BATCH, 2, CHUNKS * LATENTS, 6)  # two of four heads: grouped queries
        assert cache.self_attention_cache.layers[0].keys.shape[:2] == (4 * BATCH, 2)
        addresses.add(
            (cross.keys.data_ptr(), cross.values.data_ptr(), output.encoder_outputs.last_hidden_state.data_ptr())
        )

    hook = model.register_forward_hook(look, with_kwargs=True)
    answer(model, **short_clips(), **prompts(), num_beams=4, eos_token_id=None)
    hook.remove()

    assert len(addresses) == 1


def test_questions_of_a_clip_share_its_latents(model):
    """Two more questions a clip add their own text and nothing of the clip."""
    decoder = [
        flops(model, **media(), decoder_input_ids=questions(rows=k * BATCH)["decoder_input_ids"]) for k in (1, 3)
    ]
    name = "MirasolForConditionalGeneration.model.decoder.layers.0.cross_attention"
    for projection, factor in (("k_proj", 1), ("v_proj", 1), ("q_proj", 3)):
        assert decoder[1][f"{name}.{projection}"] == factor * decoder[0][f"{name}.{projection}"]
    assert (
        decoder[0]["MirasolForConditionalGeneration.model.encoder"]
        == (decoder[1]["MirasolForConditionalGeneration.model.encoder"])
    )


def test_grouped_queries_make_cross_attention_smaller():
    """A quarter of the heads hold keys and values: a quarter of the cache."""
    sizes = []
    for heads in (4, 1):
        model = tiny_model(text_config={"num_key_value_heads": heads})
        with torch.no_grad():
            cache = model(**media(), decoder_input_ids=questions()["decoder_input_ids"]).past_key_values
        layer = cache.cross_attention_cache.layers[0]
        assert layer.keys.is_contiguous() or layer.keys.storage_offset() == 0
        sizes.append(layer.keys.untyped_storage().nbytes() + layer.values.untyped_storage().nbytes())

    assert sizes[1] * 4 == sizes[0] == 2 * 4 * BATCH * CHUNKS * LATENTS * 4 * 6


def test_a_word_costs_as_much_at_the_end_as_its_longer_past_makes_it(model):
    """With the cache, word n computes one token: linear layers cost the same at every word."""
    with torch.no_grad():
        watched = model.get_encoder()(**media())
        state = model(encoder_outputs=watched, decoder_input_ids=questions()["decoder_input_ids"][:, :1])
    costs = []
    for position in range(1, TOKENS):
        word = questions()["decoder_input_ids"][:, position : position + 1]
        costs.append(
            flops(model, encoder_outputs=watched, decoder_input_ids=word, past_key_values=state.past_key_values)
        )

    linear = "MirasolForConditionalGeneration.model.decoder.layers.1.down_proj"
    assert len({cost[linear] for cost in costs}) == 1
    assert not any("encoder.video_encoder" in name for name in costs[-1])
