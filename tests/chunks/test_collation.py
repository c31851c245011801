"""The collator: padded batches equal those of a call, and the packing indices find the real chunks."""

import pytest
import torch
from einops import rearrange

from mirasol.chunks import MirasolCollator

QUESTIONS, ANSWERS = ["which digit is named?", "what is said?", "which letter?"], ["two", "bin blue", "b"]


@pytest.fixture
def clips(make_clip):
    return [make_clip(seconds=1.1, sound=(0.4, 1.7)), make_clip(seconds=0.7, sound=None), make_clip(picture=False)]


@pytest.fixture
def items(processor, clips):
    text = processor.tokenize_questions(QUESTIONS, ANSWERS)
    return [{**processor.chunk_clip(clip), **text} for clip in clips]


def test_batch_equals_that_of_a_call(processor, clips, items):
    batch = MirasolCollator(processor.pad_token_id)(items)
    expected = processor(text=QUESTIONS * 3, videos=clips, answers=ANSWERS * 3)
    assert set(batch) - set(expected) == {"video_chunk_index", "audio_chunk_index"}
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_indices_are_the_real_chunks_of_the_flattened_batch(processor, items):
    batch = MirasolCollator(processor.pad_token_id)(items)
    assert batch["video_chunk_index"].tolist() == [0, 1, 2, 3, 10, 11, 12]
    assert batch["audio_chunk_index"].tolist() == [1, 2, 3, 4, 5, *range(20, 30)]
    assert batch["video_chunk_index"].dtype == torch.int64
    flat = rearrange(batch["pixel_values_videos"], "batch chunk ... -> (batch chunk) ...")
    packed = flat[batch["video_chunk_index"]]
    assert torch.equal(packed[:4], items[0]["pixel_values_videos"][:4])
    assert torch.equal(packed[4:], items[1]["pixel_values_videos"])


def test_rows_are_grouped_by_clip(processor, clips):
    items = []
    for number, clip in enumerate(clips):
        text = processor.tokenize_questions([f"{number}a", f"{number}b"], ["x", "y"])
        items.append({**processor.chunk_clip(clip), **text})
    ids = MirasolCollator(processor.pad_token_id)(items)["decoder_input_ids"]
    prompts = [processor.tokenizer.decode(row, skip_special_tokens=True).split("\n")[0] for row in ids]
    assert prompts == ["0a", "0b", "1a", "1b", "2a", "2b"]


def test_no_real_chunk_of_a_modality_gives_an_empty_index(processor, make_clip):
    batch = MirasolCollator(processor.pad_token_id)([processor.chunk_clip(make_clip(sound=None))])
    assert batch["audio_chunk_index"].shape == (0,)
    assert "decoder_input_ids" not in batch


def test_prompts_without_answers_are_padded_on_the_left(processor, make_clip):
    item = {**processor.chunk_clip(make_clip()), **processor.tokenize_questions(QUESTIONS)}
    batch = MirasolCollator(processor.pad_token_id)([item])
    assert "labels" not in batch
    assert (batch["decoder_attention_mask"][:, -1] == 1).all()


def test_unequal_numbers_of_questions_are_refused(processor, items):
    items[1] = {**items[1], **processor.tokenize_questions(QUESTIONS[:2], ANSWERS[:2])}
    with pytest.raises(ValueError, match=r"equally many questions, but these have \[2, 3\]: ask each clip the same"):
        MirasolCollator(processor.pad_token_id)(items)


def test_a_blank_gets_as_many_rows_of_text_as_the_others_without_a_label_and_an_empty_prompt(processor, items):
    expected = MirasolCollator(processor.pad_token_id, prompts=True)([items[0], items[2]])
    items[1] = {**items[1], "decoder_input_ids": [], "labels": [], "skipped": "b.mp4"}
    batch = MirasolCollator(processor.pad_token_id, prompts=True)(items)
    assert batch["skipped"] == ["b.mp4"] and batch["decoder_input_ids"].shape[0] == 9
    assert (batch["labels"][3:6] == -100).all() and (batch["decoder_input_ids"][3:6] == processor.pad_token_id).all()
    assert (
        batch["decoder_attention_mask"][3:6].sum(1).tolist()
        == batch["prompt_attention_mask"][3:6].sum(1).tolist()
        == [1] * 3
    )
    for name in ("decoder_input_ids", "labels", "decoder_attention_mask", "prompt_ids", "prompt_attention_mask"):
        assert torch.equal(batch[name][[0, 1, 2, 6, 7, 8]], expected[name]), name
    alone = MirasolCollator(processor.pad_token_id)([items[1]])
    assert alone["labels"].tolist() == [[-100]]


def test_prompts_beside_answers_are_those_that_generation_gets(processor, items):
    batch = MirasolCollator(processor.pad_token_id, prompts=True)(items)
    expected = processor(text=QUESTIONS * 3)
    assert torch.equal(batch["prompt_ids"], expected["decoder_input_ids"])
    assert torch.equal(batch["prompt_attention_mask"], expected["decoder_attention_mask"])
    plain = MirasolCollator(processor.pad_token_id)(items)
    assert set(batch) - set(plain) == {"prompt_ids", "prompt_attention_mask"}
    assert all(torch.equal(batch[name], plain[name]) for name in plain)
