"""The lmms-eval plugin: what it declares can be checked everywhere, its own command where lmms-eval is installed."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tomllib

import pytest

from mirasol.evaluate.runner import load_rows
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


def test_the_class_that_the_manifest_names_is_there(repository):
    """Read, not imported: its base class is lmms-eval's."""
    text = (repository / "src" / "mirasol" / "integrations" / "lmms_eval_plugin.py").read_text()
    assert "mirasol.integrations.lmms_eval_model.Mirasol" in text
    assert importlib.util.find_spec("mirasol.integrations.lmms_eval_model") is not None
    source = (repository / "src" / "mirasol" / "integrations" / "lmms_eval_model.py").read_text()
    for method in (
        "class Mirasol(lmms)",
        "def generate_until(",
        "def loglikelihood(",
        "def generate_until_multi_round(",
    ):
        assert method in source


@pytest.mark.slow
def test_its_own_command_answers_a_tiny_local_task(grid_root, tmp_path):
    """Generated and chosen answers of the shipped checkpoint, which reads colours right on these clips."""
    if importlib.util.find_spec("lmms_eval") is None:
        pytest.skip("needs the package lmms-eval, installed as docs/lmms_eval.md says")
    asked = [
        {"clip": str(row.media), "question": "which color is named?", "answer": row.words[1], "choices": COLORS}
        for row in load_rows("grid", grid_root, "test")[:2]
    ]
    assert all(entry["answer"] in COLORS for entry in asked) and grid.SLOTS[1] == "color"
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in asked))
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    for name, rest in (("tiny", GENERATE), ("tiny_choice", CHOOSE)):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, folder=tmp_path) + rest)
    command = [
        sys.executable,
        "-m",
        "lmms_eval",
        "--model",
        "mirasol",
        "--tasks",
        "tiny,tiny_choice",
        "--batch_size",
        "1",
    ]
    command += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    (found,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(found.read_text())["results"]
    assert results["tiny"]["exact_match,none"] == 1.0
    assert results["tiny_choice"]["acc,none"] == 1.0
