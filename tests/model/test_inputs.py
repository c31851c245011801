"""What forward does with its inputs: nothing at random, nothing to them, and a clear word where they do not fit."""

import math

import pytest
import torch

from tests.model.tiny import media, questions, tiny_model


def test_eval_is_deterministic_and_training_is_not():
    model = tiny_model(text_config={"dropout": 0.5}, video_config={"dropout": 0.5})
    clips, text = media(), questions()

    with torch.no_grad():
        first, second = model(**clips, **text), model(**clips, **text)
        model.train()
        third, fourth = model(**clips, **text), model(**clips, **text)

    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.loss, second.loss)
    assert not torch.equal(third.logits, fourth.logits)


@pytest.mark.parametrize("training", [False, True])
def test_inputs_are_not_modified(training):
    model = tiny_model().train(training)
    inputs = {**media(), **questions()}
    before = {key: value.clone() for key, value in inputs.items()}

    output = model(**inputs)
    if training:
        output.loss.backward()

    for key, value in inputs.items():
        assert torch.equal(value, before[key]), key


def test_only_training_moves_the_running_mean():
    model = tiny_model()
    encoder = model.get_encoder()
    encoder(**media())
    assert torch.equal(encoder.feature_mean, torch.zeros_like(encoder.feature_mean))

    encoder.train()
    clips = media()
    clips["video_chunk_mask"][:, 3:] = clips["audio_chunk_mask"][:, 3:] = False
    combined = encoder(**clips).combined_features

    expected = model.config.temporal_config.feature_mean_momentum * combined[:, :3].mean(dim=(0, 1))
    torch.testing.assert_close(encoder.feature_mean, expected)


@pytest.mark.parametrize(
    ("name", "size", "numbers"),
    [
        ("pixel_values_videos", (2, 5, 4, 3, 10, 10), ["(3, 3, 10, 10)", "(4, 3, 10, 10)"]),
        ("pixel_values_videos", (2, 5, 3, 10, 10, 3), ["(3, 3, 10, 10)", "(3, 10, 10, 3)"]),
        ("input_features", (2, 5, 7, 6), ["(7, 5)", "(7, 6)"]),
        ("input_features", (2, 5, 5, 7), ["(7, 5)", "(5, 7)"]),
    ],
)
def test_media_of_another_grid_are_refused(unchecked, name, size, numbers):
    with pytest.raises(ValueError, match="processor saved with this model") as error:
        tiny_model()(**dict(media(), **{name: torch.zeros(size)}), **questions())
    for number in numbers:
        assert number in str(error.value)


def test_rows_of_text_that_do_not_divide_by_the_clips_are_refused(unchecked):
    with pytest.raises(ValueError, match="3 rows and 2 clips"):
        tiny_model()(**media(), **questions(rows=3))


def test_missing_text_is_refused(unchecked):
    with pytest.raises(ValueError, match="tokenised question"):
        tiny_model()(**media())


def test_missing_media_are_refused(unchecked):
    with pytest.raises(ValueError, match="pixel_values_videos"):
        tiny_model()(**questions())


def test_clips_and_masks_of_different_lengths_are_refused(unchecked):
    clips = media()
    clips["input_features"] = clips["input_features"][:, :-1]
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        tiny_model()(**clips, **questions())


def test_time_changes_the_answer_and_not_the_latents():
    model = tiny_model()
    clips = media()
    later = dict(clips, chunk_times=clips["chunk_times"] + 3.0)
    text = questions()["decoder_input_ids"]

    with torch.no_grad():
        first, second = model(**clips, decoder_input_ids=text), model(**later, decoder_input_ids=text)

    assert torch.equal(first.encoder_outputs.last_hidden_state, second.encoder_outputs.last_hidden_state)
    assert (first.logits != second.logits).any(dim=-1).all()


@pytest.mark.parametrize("left_out", [None, "chunk_times", "input_features"])
def test_generation_without_the_clip_says_what_to_pass(left_out):
    model, ids = tiny_model(), questions()["decoder_input_ids"]
    clips = {} if left_out is None else {name: value for name, value in media().items() if name != left_out}
    with pytest.raises(
        ValueError, match=f"found no .*{left_out or 'pixel_values_videos'}.* Pass all that the processor"
    ):
        model.generate(**clips, decoder_input_ids=ids, max_new_tokens=2)


def test_generation_without_the_question_says_what_to_pass():
    with pytest.raises(ValueError, match="Expected decoder_input_ids, found none. Pass the tokenised question"):
        tiny_model().generate(**media(), max_new_tokens=2)


def test_generation_after_latents_needs_no_clip():
    model, ids = tiny_model(), questions()["decoder_input_ids"]
    watched = model.get_encoder()(**media())
    found = model.generate(encoder_outputs=watched, decoder_input_ids=ids, max_new_tokens=3)
    assert torch.equal(found, model.generate(**media(), decoder_input_ids=ids, max_new_tokens=3))


def test_time_enters_as_the_sines_of_the_centre_of_each_chunk():
    """Periods from half a second to four hours, by hand."""
    decoder = tiny_model().model.decoder
    times = torch.tensor([[[0.0, 0.7], [3.1, 3.9]]])
    half = decoder.config.time_code_size // 2

    with torch.no_grad():
        found = decoder.time_code(times, torch.float32)
        for chunk, centre in enumerate((0.35, 3.5)):
            angles = [2 * math.pi * centre / (0.5 * 28_800 ** (i / (half - 1))) for i in range(half)]
            code = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
            torch.testing.assert_close(found[0, chunk, 0], decoder.time_projection(code), atol=2e-5, rtol=1e-4)
