"""The lmms-eval plugin: what it declares can be checked everywhere, its own command where lmms-eval is installed."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from mirasol.evaluate.runner import load_rows
from mirasol.integrations import lmms_eval_plugin
from mirasol.tasks import grid

TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/questions.jsonl}}
test_split: test
doc_to_visual: !function functions.clip
doc_to_text: question
doc_to_target: answer
"""
GENERATE = """output_type: generate_until
process_results: !function functions.right
generation_kwargs: {max_new_tokens: 16, until: ["\\n"]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
CHOOSE = """output_type: multiple_choice
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
FUNCTIONS = """def clip(doc):
    return [doc["clip"]]


def right(doc, results):
    return {"exact_match": float(results[0].strip() == doc["answer"])}
"""
COLORS = ["blue", "green", "red", "white"]


def test_the_entry_point_names_a_function_that_is_there(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["lmms_eval.models"]["mirasol"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@dataclass
class Request:
    """What lmms-eval gives a model for one question: `args` end with (doc_to_visual, doc_id, task, split)."""

    args: tuple
    request_type: str = "generate_until"


class Base:
    """The part of lmms-eval's base class that the adapter uses."""

    def __init__(self):
        self.rank, self.task_dict, self.cached = 0, {}, []
        self.cache_hook = SimpleNamespace(add_partial=lambda *entry: self.cached.append(entry))


@pytest.fixture
def adapter(untrained, grid_root, monkeypatch):
    """The class that the manifest names, over a stand-in for lmms-eval, with documents about two clips."""
    package = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"GenerationResult": lambda pair: pair, "Instance": Request},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": SimpleNamespace},
    }
    for name, members in package.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "mirasol.integrations.lmms_eval_model", raising=False)
    path, _, name = lmms_eval_plugin.manifest().simple_class_path.rpartition(".")
    model = getattr(importlib.import_module(path), name)(pretrained=str(untrained), max_batch_size=4)
    clips = [str(row.media) for row in load_rows("grid", grid_root, "test")[:2]]
    model.task_dict = {"tiny": {"test": [{"clip": clip} for clip in (clips[0], clips[1], clips[0])]}}
    yield model
    sys.modules.pop("mirasol.integrations.lmms_eval_model", None)


def rest(document: int) -> tuple:
    return lambda doc: [doc["clip"]], document, "tiny", "test"


def test_answers_come_in_the_order_asked_cut_at_stop_strings_each_clip_watched_once(adapter, monkeypatch):
    answerer, watched = adapter.answerer, []
    real = answerer.watch
    monkeypatch.setattr(answerer, "watch", lambda *clips, **tracks: watched.append(clips) or real(*clips, **tracks))
    texts = ["what is said?", "what is said?", "which color is named?"]
    given = adapter.generate_until([Request((text, {}, *rest(i))) for i, text in enumerate(texts)])
    documents = adapter.task_dict["tiny"]["test"]
    alone = [answerer.answer(real(d["clip"]), [[text]])[0][0].text for d, text in zip(documents, texts, strict=True)]
    assert given == alone and len(watched) == 2
    stop = alone[0][1:3]
    (cut,) = adapter.generate_until([Request((texts[0], {"until": [stop]}, *rest(0)))])
    assert stop and cut == alone[0].split(stop)[0].strip() != alone[0]
    assert [entry[2] for entry in adapter.cached] == [given[0], given[2], given[1], cut]


def test_a_loss_is_minus_the_log_likelihood_and_greedy_is_what_the_model_would_say(adapter):
    answerer, clip = adapter.answerer, adapter.task_dict["tiny"]["test"][0]["clip"]
    watched = answerer.watch(clip)
    ((ranking,),) = answerer.rank(watched, [answerer.prompts(["which color is named?"], [COLORS])])
    asked = [Request(("which color is named?", f" {color}", *rest(0)), "loglikelihood") for color in COLORS]
    found = adapter.loglikelihood(asked)
    assert [loss for loss, _ in found] == pytest.approx([-total for total in ranking.log_probabilities], rel=1e-5)
    scored = answerer.score(watched, ["which color is named?"] * len(COLORS), COLORS)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in scored]
    assert all(loss > 0 for loss, _ in found)


def test_what_several_processes_need_is_there(adapter):
    """lmms-eval puts the counts that its processes exchange on `device`, and only rank 0 shows progress."""
    assert adapter.device == adapter.answerer.model.device


def test_what_does_not_fit_is_refused(adapter):
    build = type(adapter)
    with pytest.raises(ValueError, match="found colour"):
        build(colour="red")
    with pytest.raises(ValueError, match="Expected batch_size 1, found 2"):
        build(batch_size=2)
    pictures = Request(("what?", {}, lambda doc: [object(), object()], 0, "tiny", "test"))
    with pytest.raises(ValueError, match="one video or sound file for a question, found object, object"):
        adapter.generate_until([pictures])
    with pytest.raises(NotImplementedError, match="single questions"):
        adapter.generate_until_multi_round([])
    with pytest.warns(UserWarning, match="answers greedily"):
        adapter.generate_until([Request(("what is said?", {"do_sample": True}, *rest(0)))])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_its_own_command_answers_a_tiny_local_task(grid_root, tmp_path, processes):
    """Generated and chosen answers of the shipped checkpoint, which reads colours right on these clips."""
    if importlib.util.find_spec("lmms_eval") is None:
        pytest.skip("needs the package lmms-eval, installed as docs/lmms_eval.md says")
    asked = [
        {"clip": str(row.media), "question": "which color is named?", "answer": row.words[1], "choices": COLORS}
        for row in load_rows("grid", grid_root, "test")[:3]
    ]
    assert all(entry["answer"] in COLORS for entry in asked) and grid.WORD_KINDS[1] == "color"
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in asked))
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    for name, rest in (("tiny", GENERATE), ("tiny_choice", CHOOSE)):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, folder=tmp_path) + rest)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launch, "-m", "lmms_eval", "--model", "mirasol", "--tasks", "tiny,tiny_choice"]
    command += ["--batch_size", "1"]
    command += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    (found,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(found.read_text())["results"]
    assert results["tiny"]["exact_match,none"] == 1.0
    assert results["tiny_choice"]["acc,none"] == 1.0
