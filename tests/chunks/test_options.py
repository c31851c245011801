"""Keywords of a call: flat or in transformers' groups they do the same, twice or unknown they are refused."""

import numpy as np
import pytest
import torch

QUESTIONS = ["what is said?", "which letter?"]


def pixels(processor, clip, **options):
    return processor(videos=clip, **options)["pixel_values_videos"]


@pytest.mark.parametrize("group", ["images_kwargs", "videos_kwargs", None])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"do_normalize": False}, lambda grey: grey / 255),
        ({"do_rescale": False, "do_normalize": False}, lambda grey: grey),
        ({"rescale_factor": 1 / 51, "image_mean": [0.5] * 3, "image_std": [2.0] * 3}, lambda g: (g / 51 - 0.5) / 2),
    ],
)
def test_options_of_colours_reach_the_pixels_and_stay_with_the_call(processor, make_clip, group, options, expected):
    clip = make_clip()
    before = pixels(processor, clip)
    found = pixels(processor, clip, **({group: options} if group else options))
    grey = (before * 0.5 + 0.5) * 255
    torch.testing.assert_close(found, expected(grey), rtol=1e-5, atol=1e-4)
    assert torch.equal(pixels(processor, clip), before)


def test_groups_are_read_by_their_parts(processor, make_clip):
    sound = make_clip().waveform
    expected = processor(audio=sound, sampling_rate=16_000, text=QUESTIONS, padding="max_length", max_length=31)
    found = processor(
        audio=sound,
        text=QUESTIONS,
        audio_kwargs={"sampling_rate": 16_000},
        text_kwargs={"padding": "max_length", "max_length": 31},
        common_kwargs={"return_tensors": "pt"},
    )
    assert found["decoder_input_ids"].shape == (2, 31)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("answers", "side"), [(None, "left"), (["a", "b"], "right")])
def test_filling_up_to_a_length_keeps_the_side(processor, answers, side):
    short, full = (
        processor(text=QUESTIONS, answers=answers),
        processor(text=QUESTIONS, answers=answers, padding="max_length", max_length=31),
    )
    length = short["decoder_input_ids"].shape[1]
    kept = slice(-length, None) if side == "left" else slice(length)
    for name in short:
        assert torch.equal(full[name][:, kept], short[name]), name
    assert full["decoder_attention_mask"].sum() == short["decoder_attention_mask"].sum()


def test_nothing_is_cut_to_a_length(processor):
    with pytest.raises(ValueError, match="must fit into max_length=5 tokens, but question 0 takes .*: shorten it"):
        processor(text=QUESTIONS, max_length=5)


def test_rows_of_one_length_need_no_padding(processor):
    assert processor(text=QUESTIONS[0], padding=False)["decoder_attention_mask"].all()
    with pytest.raises(ValueError, match="make no tensor without padding: leave padding on"):
        processor(text=QUESTIONS, padding=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_chunk": 3}, TypeError, "unexpected keyword 'max_chunk'; it takes sampling, max_chunks"),
        ({"truncation": True}, TypeError, "unexpected keyword 'truncation'"),
        ({"text_kwargs": {"sampling_rate": 16_000}}, TypeError, "'sampling_rate' in text_kwargs; it takes padding"),
        ({"text_kwargs": {"padding": True}, "padding": True}, ValueError, "padding was passed twice, in text_kwargs"),
        ({"text_kwargs": {"return_tensors": "np"}}, ValueError, "must be 'pt', but it is 'np'"),
    ],
)
def test_a_keyword_that_nobody_reads_is_refused(processor, make_clip, options, error, message):
    with pytest.raises(error, match=message):
        processor(text=QUESTIONS, videos=make_clip(), **options)


def test_none_counts_as_not_given(processor, make_clip):
    inputs = processor(text=QUESTIONS[0], videos=make_clip(), sampling=None, max_chunks=None, padding_side=None)
    expected = processor(text=QUESTIONS[0], videos=make_clip())
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_the_order_of_arguments_is_that_of_transformers(processor, make_clip):
    picture = np.zeros((17, 19, 3), np.uint8)
    inputs = processor(picture, "what is said?", None, make_clip().waveform, sampling_rate=16_000)
    assert inputs["video_chunk_mask"][0].tolist() == [True] + [False] * 9 and inputs["audio_chunk_mask"].all()
