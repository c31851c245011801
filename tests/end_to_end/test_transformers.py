"""With transformers' own tools: the any-to-any pipeline, chats, and the layout of a repository on the Hub."""

import copy
import json
import logging
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from clips import write_clip
from huggingface_hub import CommitOperationAdd
from transformers import (
    AutoModelForMultimodalLM,
    AutoProcessor,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    pipeline,
)
from transformers.utils import hub

from mirasol import DEFAULT_CHECKPOINT
from mirasol.answer.ask import ask
from mirasol.chunks import MirasolCollator

QUESTION = "which color is named?"


@pytest.fixture(scope="module")
def shipped():
    """The shipped model and processor."""
    model = AutoModelForMultimodalLM.from_pretrained(DEFAULT_CHECKPOINT)
    return model, AutoProcessor.from_pretrained(DEFAULT_CHECKPOINT)


@pytest.fixture(scope="module")
def clip(grid_root):
    return str(grid_root / "clips" / "bbaf4p.mp4")


@pytest.fixture(scope="module")
def expected(clip):
    """The answer of `mirasol ask`."""
    return ask(clip, QUESTION).as_dict()["answer"]


def chat(clip, kind="video"):
    return [{"role": "user", "content": [{"type": kind, "path": clip}, {"type": "text", "text": QUESTION}]}]


def test_pipeline_answers_a_clip(shipped, clip, expected, caplog):
    model, processor = shipped
    with caplog.at_level(logging.ERROR, logger="transformers"):
        pipe = pipeline("any-to-any", model=model, processor=processor)
    assert "is not supported" not in caplog.text

    options = {"max_new_tokens": 8, "return_full_text": False}
    single = pipe({"text": QUESTION, "videos": clip}, **options)
    talked = pipe(chat(clip), **options)
    full = pipe(chat(clip), max_new_tokens=8)

    assert expected == "blue"
    assert single[0]["generated_text"].strip() == talked[0]["generated_text"].strip() == expected
    assert full[0]["generated_text"][-1] == {"role": "assistant", "content": talked[0]["generated_text"]}


def test_pipeline_answers_several_chats_in_one_batch(shipped, grid_root):
    """Questions of unequal length; each chat is answered as it is alone."""
    model, processor = shipped
    pipe = pipeline("any-to-any", model=model, processor=processor)
    asked = ["which color is named?", "what is said?", "at which second does the letter begin?"]
    paths = sorted(str(path) for path in (grid_root / "clips").glob("*.mp4"))[:3]
    chats = [
        [{"role": "user", "content": [{"type": "video", "path": path}, {"type": "text", "text": text}]}]
        for path, text in zip(paths, asked, strict=True)
    ]
    options = {"max_new_tokens": 8, "return_full_text": False}
    alone = [pipe(each, **options)[0]["generated_text"] for each in chats]
    together = [answers[0]["generated_text"] for answers in pipe(chats, batch_size=3, **options)]
    assert together == alone and len(set(alone)) == 3


def test_pipeline_answers_clips_of_unequal_length_in_one_batch(shipped, clip, tmp_path):
    """transformers joins the results of single calls and cannot pad chunks: the processor does, by request."""
    model, processor = shipped
    pipe = pipeline("any-to-any", model=model, processor=processor)
    short = write_clip(tmp_path / "short.mp4", seconds=0.9, size=(96, 96))
    chats = [chat(clip), chat(str(short))]
    options = {"max_new_tokens": 8, "return_full_text": False}
    alone = [pipe(each, **options)[0]["generated_text"] for each in chats]
    padded = {"processor_kwargs": {"num_chunks": processor.max_chunks}}
    together = [answers[0]["generated_text"] for answers in pipe(chats, batch_size=2, **padded, **options)]
    assert together == alone


def test_pipeline_hears_a_file_of_sound(shipped, clip, expected):
    model, processor = shipped
    pipe = pipeline("any-to-any", model=model, processor=processor)
    found = pipe({"text": QUESTION, "audio": clip}, max_new_tokens=8, return_full_text=False)
    assert found[0]["generated_text"].strip() == expected


def test_plain_seq2seq_trainer_generates_after_the_question(shipped, grid_root, tmp_path):
    """transformers' trainer takes `decoder_input_ids` away before it generates."""
    model, processor = shipped
    model = copy.deepcopy(model).float()
    asked = [QUESTION, "what is said?"]
    paths = sorted((grid_root / "clips").glob("*.mp4"))[:2]
    items = [
        {**processor.chunk_clip(processor.read_clip(path)), **processor.tokenize_questions([text], ["x"])}
        for path, text in zip(paths, asked, strict=True)
    ]
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, generation_max_length=40, report_to=[], use_cpu=True
    )
    collator = MirasolCollator(processor.pad_token_id, prompts=True)
    found = Seq2SeqTrainer(model, arguments, data_collator=collator, eval_dataset=items).predict(items)
    texts = [processor.decode_answer(row) for row in found.predictions]
    for text, question, path in zip(texts, asked, paths, strict=True):
        inputs = processor(text=question, videos=path)
        ids = model.generate(**inputs, max_length=40)
        assert text == processor.decode_answer(ids[0]) and text.startswith(question) and len(text) > len(question) + 2
    assert found.metrics["test_loss"] > 0

    with pytest.raises(ValueError, match=r"MirasolCollator\(pad_token_id, prompts=True\)"):
        collator = MirasolCollator(processor.pad_token_id)
        Seq2SeqTrainer(model, arguments, data_collator=collator, eval_dataset=items).predict(items)


def test_chat_with_sound_alone_is_the_sound_of_the_clip(shipped, clip):
    _, processor = shipped
    inputs = processor.apply_chat_template(chat(clip, "audio"), tokenize=True)
    expected = processor(text=QUESTION, audio=clip)

    assert not inputs["video_chunk_mask"].any() and inputs["audio_chunk_mask"].any()
    for name, value in expected.items():
        assert torch.equal(inputs[name], value), name


def test_variables_reach_the_chat_template(shipped, clip):
    _, processor = shipped
    template = "{{ greeting }}: {{ messages[0].content[1].text }}"
    rendered = processor.apply_chat_template(chat(clip), chat_template=template, greeting="Hello")
    assert rendered == f"Hello: {QUESTION}"

    tokenized = processor.apply_chat_template(
        chat(clip), chat_template=template, greeting="", tokenize=True, use_audio=True
    )
    assert processor.tokenizer.decode(tokenized["decoder_input_ids"][0]).endswith(f": {QUESTION}")
    with pytest.raises(TypeError, match="greeeting"):  # known to neither template nor call
        processor.apply_chat_template(chat(clip), chat_template=template, tokenize=True, greeeting="Hello")


def test_what_is_pushed_to_the_hub_loads_from_there(shipped, clip, expected, tmp_path, monkeypatch):
    """The upload is written to a folder instead; it holds nothing but what loading needs, and says its class."""

    class Folder:
        """The part of the Hub that uploading uses."""

        def create_repo(self, repo_id, **_):
            return SimpleNamespace(repo_id=repo_id)

        def create_commit(self, *, operations, **_):
            for operation in operations:
                assert isinstance(operation, CommitOperationAdd)
                with operation.as_file() as file:
                    (tmp_path / operation.path_in_repo).write_bytes(file.read())

    monkeypatch.setattr(hub, "hf_api", Folder)
    for part in shipped:
        part.push_to_hub("someone/mirasol")

    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"model.safetensors", "config.json", "generation_config.json", "processor_config.json"}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["MirasolForConditionalGeneration"]
    assert ask(clip, QUESTION, checkpoint=str(tmp_path)).as_dict()["answer"] == expected


@pytest.mark.slow
def test_the_page_about_transformers_prints_what_it_says(repository):
    page = (repository / "docs" / "transformers.md").read_text()
    fences = re.findall(r"^```(\w+)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    code = "\n".join(block for language, block in fences if language == "python")
    run = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)

    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout == "".join(block for language, block in fences if language == "text")
