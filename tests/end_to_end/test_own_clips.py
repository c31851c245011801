"""docs/own_clips.md, executed: from real clips to a model in use, by the guide's own commands."""

import csv
import json
import os
import re
import shlex
import shutil

import pytest

from mirasol.cli import main

SMALL = {
    "train": "schedule.finetune_epochs=1 schedule.batch_size=2 processor.max_chunks=2 data.num_workers=0 device=cpu",
    "evaluate": "--workers 0",
    "predict": "--workers 0",
    "data": "--workers 1",
}
QUESTION = "what is in the sky?"


@pytest.mark.slow
def test_the_guide_leads_from_clips_to_answers(repository, tmp_path, monkeypatch, capsys):
    text = (repository / "docs" / "own_clips.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert [words[:2] for words in commands] == [
        ["mirasol", "new"], ["cd", "my_clips"], ["mirasol", "data"], ["mirasol", "train"], ["mirasol", "evaluate"],
        ["mirasol", "ask"], ["mirasol", "predict"],
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for words in commands:
        if words[0] == "cd":
            monkeypatch.chdir(tmp_path / "my_clips")
            fill(repository)
        else:
            assert main([*words[1:], *SMALL.get(words[1], "").split()]) == 0, words
    shown = capsys.readouterr()
    assert "trained" in shown.out and "confidence" in shown.out and "not trained on" not in shown.out
    metrics = json.loads((tmp_path / "my_clips" / "runs" / "first" / "test" / "metrics.json").read_text())
    assert metrics["clips"]["answered"] == 2 and metrics["baselines"]
    with open("answers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and all(row["answer"] and row["question"] == QUESTION for row in rows)
    assert main(["info", "runs/first/best"]) == 0
    assert f"{QUESTION}  2 times: " in capsys.readouterr().out


def fill(repository) -> None:
    """Put real clips in the place of the samples, two in each split; the guide asks about clips/a.mp4."""
    shutil.rmtree("clips")
    os.mkdir("clips")
    clips = repository / "data" / "drone_cc0" / "video"
    names = iter("abcdef")
    for split, numbers in (("train", (21, 46)), ("val", (22, 47)), ("test", (23, 48))):
        lines = []
        for kind, number in zip(("AIRPLANE", "BIRD"), numbers, strict=True):
            media = f"clips/{next(names)}.mp4"
            shutil.copy(clips / f"V_{kind}_0{number}.mp4", media)
            lines.append({"media": media, "question": QUESTION, "answer": f"a {kind.lower()}"})
        with open(f"{split}.jsonl", "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
