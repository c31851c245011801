"""The README, executed: whoever copies a line of it gets what it says."""

import re
import shlex
import subprocess
import sys

import pytest

from mirasol.cli import main

# What is appended to a command to make it small: a test may not train for an hour.
SMALL = {
    "evaluate": "--max-clips 3",
    "train": "output={folder}/run data.cache={folder}/cache data.max_train_clips=4 validation.max_clips=2 "
    "schedule.pretrain_epochs=0 schedule.finetune_epochs=1 schedule.batch_size=2 validation.every_epochs=1",
}

OUTPUTS = ("runs/grid_test", "my-model", "answers.csv")  # folders that the commands write, moved out of the repository


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language; "" is a fence without a language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for found, block in fences if found == language]


@pytest.fixture(scope="module")
def readme(repository) -> str:
    return (repository / "README.md").read_text()


def commands(text: str, program: str) -> list[list[str]]:
    """The words of every line of a shell block that calls `program`."""
    lines = [line for block in blocks(text, "bash") + blocks(text, "") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


def test_a_command_stands_in_the_first_ten_lines(readme):
    assert any(line.startswith(("make ", "mirasol ")) for line in readme.splitlines()[:10])


def test_shell_blocks_hold_only_what_is_tested_here(readme):
    lines = [line for block in blocks(readme, "bash") + blocks(readme, "") for line in block.splitlines() if line]
    assert {line.split()[0] for line in lines} == {"make", "mirasol"}


def test_every_make_target_exists(readme, repository):
    targets = [words[1] for words in commands(readme, "make")]
    assert {"demo", "test", "checks", "wheel", "setup"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=repository, check=True, capture_output=True)


@pytest.mark.slow
def test_every_mirasol_command_runs(readme, repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    found = commands(readme, "mirasol")
    assert {words[1] for words in found} == {"ask", "predict", "watch", "info", "evaluate", "train", "data", "export"}
    for words in found:
        small = SMALL.get(words[1], "").format(folder=tmp_path)
        words = [word if word not in OUTPUTS else str(tmp_path / word) for word in words]
        assert main(words[1:] + small.split()) == 0, (words, capsys.readouterr().err)
        assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number, topic", enumerate(["answerer=answerer", "StreamSession"]))
def test_the_python_lines_answer(readme, repository, number, topic):
    """One clip asked, and one streamed."""
    found = blocks(readme, "python")
    assert len(found) == 2 and topic in found[number]
    assert len([line for line in found[number].splitlines() if line.strip()]) <= 7
    words = [sys.executable, "-c", found[number]]
    run = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "blue"
