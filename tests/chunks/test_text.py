"""Questions and answers as token rows; saving and loading; the chat template."""

import pytest
import torch
from clips import write_clip

QUESTIONS, ANSWERS = ["which digit is named?", "what is said?"], ["two", "bin blue"]


def test_labels_are_the_answers_shifted_by_one(processor, tokenizer):
    text = processor.tokenize_questions(QUESTIONS, ANSWERS)
    for row, labels, question, answer in zip(
        text["decoder_input_ids"], text["labels"], QUESTIONS, ANSWERS, strict=True
    ):
        prompt = [tokenizer.bos_token_id, *tokenizer(question + "\n")["input_ids"]]
        answer_ids = tokenizer(answer)["input_ids"]
        sequence = [*prompt, *answer_ids, tokenizer.eos_token_id]
        assert row == sequence[:-1]
        assert labels == [-100] * (len(prompt) - 1) + answer_ids + [tokenizer.eos_token_id]
        assert len(row) == len(labels)


def test_training_rows_begin_with_the_prompts_that_generation_gets(processor):
    prompts = processor.tokenize_questions(QUESTIONS)["decoder_input_ids"]
    rows = processor.tokenize_questions(QUESTIONS, ANSWERS)["decoder_input_ids"]
    assert all(row[: len(prompt)] == prompt for prompt, row in zip(prompts, rows, strict=True))


def test_prompts_are_padded_on_the_left_and_answers_on_the_right(processor, make_clip, tokenizer):
    prompts = processor(text=QUESTIONS, videos=make_clip())
    trained = processor(text=QUESTIONS, videos=make_clip(), answers=ANSWERS)
    pad = tokenizer.pad_token_id
    assert prompts["decoder_attention_mask"].tolist()[1][0] == 0
    assert trained["decoder_attention_mask"].tolist()[0][-1] in (0, 1)
    for inputs in (prompts, trained):
        assert (inputs["decoder_input_ids"][inputs["decoder_attention_mask"] == 0] == pad).all()
        assert set(inputs["decoder_attention_mask"].unique().tolist()) == {0, 1}
    assert (prompts["decoder_attention_mask"][:, -1] == 1).all()
    assert (trained["decoder_attention_mask"][:, 0] == 1).all()
    assert (trained["labels"][trained["decoder_attention_mask"] == 0] == -100).all()
    left = processor(text=QUESTIONS, videos=make_clip(), answers=ANSWERS, padding_side="left")
    assert (left["decoder_attention_mask"][:, -1] == 1).all()


def test_answers_come_back_from_labels_and_from_generated_ids(processor):
    inputs = processor(text=QUESTIONS, answers=ANSWERS)
    assert processor.decode_answer(inputs["labels"]) == ANSWERS
    assert processor.batch_decode(inputs["labels"].numpy(), skip_special_tokens=True) == ANSWERS
    prompts = processor(text=QUESTIONS)["decoder_input_ids"]
    generated = torch.cat(
        [prompts, torch.tensor(processor.tokenizer(["two</s>", "bin</s>"], padding=True)["input_ids"])], 1
    )
    assert processor.decode_answer(generated, prompt_length=prompts.shape[1]) == ["two", "bin"]
    assert processor.decode_answer(generated[0], prompt_length=prompts.shape[1]) == "two"


def test_one_question_is_asked_of_every_clip(processor, make_clip):
    inputs = processor(text="what is said?", videos=[make_clip(), make_clip(seconds=1.0)])
    assert inputs["decoder_input_ids"].shape[0] == 2
    assert torch.equal(inputs["decoder_input_ids"][0], inputs["decoder_input_ids"][1])


def test_question_longer_than_the_context_is_refused(processor, make_clip):
    long = "z" * 40
    with pytest.raises(
        ValueError, match="context of 37 tokens and leave room .* question 1 takes 42 tokens: shorten it"
    ):
        processor(text=["what is said?", long], videos=make_clip())
    fitting = "z" * 34  # with begin token and line feed 36, which leaves one token for the answer
    assert processor(text=fitting, videos=make_clip())["decoder_input_ids"].shape == (1, 36)
    with pytest.raises(ValueError, match="question 0 takes 37 tokens"):
        processor(text="z" * 35, videos=make_clip())
    with pytest.raises(ValueError, match="together with its answer, but question 0 takes 38 tokens"):
        processor(text=[fitting], videos=make_clip(), answers=["zz"])


def test_saved_processor_gives_the_same_through_auto(make_processor, make_clip, tmp_path):
    from transformers import AutoProcessor

    import mirasol.auto  # noqa: F401  registers the classes

    options = {"max_chunks": 7, "sampling": "snippets", "prompt_template": "Q: {question} A:"}
    processor = make_processor(**options)
    processor.image_processor.crop_fraction = 0.8
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    assert loaded.grid == processor.grid
    assert (loaded.sampling, loaded.prompt_template) == ("snippets", "Q: {question} A:")
    expected, inputs = (p(text=QUESTIONS, videos=make_clip(), answers=ANSWERS) for p in (processor, loaded))
    assert expected.keys() == inputs.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


@pytest.mark.parametrize("template", ["{question}\n", 'Say "{question}"\\ now:\n\n', "{question}"])
def test_chat_template_gives_the_prompt_of_a_call(make_processor, tmp_path, template):
    processor = make_processor(prompt_template=template)
    path = write_clip(tmp_path / "clip.mp4", seconds=0.5, size=(38, 34))
    parts = [{"type": "video", "path": str(path)}, {"type": "text", "text": "what is said?"}]
    conversation = [{"role": "system", "content": "ignored"}, {"role": "user", "content": parts}]
    assert processor.apply_chat_template(conversation) == template.replace("{question}", "what is said?")
    expected = processor(text="what is said?", videos=path)
    inputs = processor.apply_chat_template(conversation, tokenize=True)
    assert expected.keys() == inputs.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    batch = processor.apply_chat_template(
        [conversation, conversation], tokenize=True, processor_kwargs={"max_chunks": 1}
    )
    assert batch["decoder_input_ids"].shape[0] == 2 and batch["chunk_times"].shape[1] == 1


def test_prompt_template_without_question_is_refused(make_processor):
    with pytest.raises(ValueError, match="must hold {question} once, but it is 'Q:'"):
        make_processor(prompt_template="Q:")
