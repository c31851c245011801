"""The ablation's scripts: clips survive packing, a sweep resumes, and tables claim only what is clear."""

import json
import sys
from importlib import import_module

import numpy as np
import pytest

WORDS = (
    ("bin", "lay", "place", "set"), ("blue", "green", "red", "white"), ("at", "by", "in", "with"), tuple("abcdefgh"),
    ("one", "two", "three", "four"), ("again", "now", "please", "soon"),
)  # fmt: skip
ROWS = """
defaults: { seeds: 1, steps: 2, batch_size: 2 }
tasks: {}
floors: { agree: 1.1 }
rows:
  - { name: words/base }
  - { name: agree/base }
  - { name: agree/hopeless }
  - { name: words/late, direction: both, num_chunks: 2, set: { combiner_config.combiner_type: perceiver } }
"""


@pytest.fixture
def scripts(repository, monkeypatch):
    """Importer of the scripts in benchmarks/ablation."""
    monkeypatch.syspath_prepend(repository / "benchmarks" / "ablation")
    yield import_module
    for name in ("packed", "table", "questions", "sweep", "training"):
        sys.modules.pop(name, None)


@pytest.fixture
def pack(scripts, tmp_path):
    """A file of eight made-up sentences, two of them val."""
    packed, rng = scripts("packed"), np.random.default_rng(0)
    labels = np.array([[words[i % len(words)] for words in WORDS] for i in range(8)])
    time = np.arange(40_960) / 16_000
    sound = 0.5 * np.sin(2 * np.pi * (200 + 50 * np.arange(8))[:, None] * time).astype(np.float32)
    frames = np.repeat(rng.integers(0, 255, (8, 64, 1, 1, 3), dtype=np.uint8), 32, axis=2).repeat(32, axis=3)
    made = packed.Clips(frames, sound, labels, np.arange(8) >= 6)
    packed.save(tmp_path / "clips.npz", {"grid": made})
    return tmp_path / "clips.npz", made


def test_packed_clips_come_back_as_they_were(scripts, pack):
    """Sound within 6 bits of mu-law, about 25 dB below it; frames within JPEG's loss; the rest exactly."""
    path, made = pack
    found = scripts("packed").load(path)["grid"]

    assert found.sound.shape == made.sound.shape
    assert np.square(found.sound - made.sound).mean() < np.square(made.sound).mean() / 100
    assert np.abs(found.frames.astype(int) - made.frames).mean() < 4
    assert (found.labels == made.labels).all() and (found.is_val == made.is_val).all()


@pytest.mark.slow
def test_a_sweep_writes_every_run_once_and_resumes(scripts, pack, tmp_path, monkeypatch, capsys):
    (tmp_path / "rows.yaml").write_text(ROWS)
    output = tmp_path / "out.jsonl"
    command = ["sweep.py", str(tmp_path / "rows.yaml"), "--clips", str(pack[0]), "--output", str(output)]

    def run(*options):
        monkeypatch.setattr(sys, "argv", [*command, *options])
        scripts("sweep").main()
        return capsys.readouterr().out

    assert "1 runs to do, 0 done" in run("--only", "words/base")
    printed = run()
    assert "3 runs to do, 1 done" in printed and "left out: agree/hopeless" in printed
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["name"], line["seed"]) for line in lines] == [
        ("words/base", 0),
        ("agree/base", 0),
        ("words/late", 0),
    ]
    lines.pop(1)
    for line in lines:
        assert len(line["right"]) == len(line["kinds"]) == len(line["units"]) == 180 * 6
        assert line["units"] == lines[0]["units"], "every run must be asked the same"
        shares = [
            np.mean([r == "1" for r, k in zip(line["right"], line["kinds"], strict=True) if k == kind])
            for kind in line["accuracy"]
        ]
        assert line["mean"] == pytest.approx(np.mean(shares))


def row(name, seeds, num_units=40):
    """Lines of a row whose seeds answer so many of `num_units` clips' two questions right."""
    kinds, units = ["a", "b"] * num_units, [unit for unit in range(num_units) for _ in "ab"]
    for seed, right in enumerate(seeds):
        answers = "".join("1" * 2 if unit < right else "0" * 2 for unit in range(num_units))
        yield {
            "name": name, "seed": seed, "mean": right / num_units, "accuracy": dict.fromkeys("ab", right / num_units),
            "kinds": kinds, "units": units, "right": answers,
            "parameters": 1, "flops": None, "seconds": 1, "peak_mib": 1,
        }  # fmt: skip


def test_a_difference_is_clear_only_if_neither_interval_nor_seeds_overlap(scripts, tmp_path):
    table = scripts("table")
    lines = [
        *row("t/base", (20, 21, 22)),
        *row("t/better", (33, 34, 35)),
        *row("t/noisy", (20, 33, 34)),
        *row("t/same", (20, 21, 23)),
    ]
    path = tmp_path / "out.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))

    rows = table.read(path)
    found = {name: table.difference(rows[name], rows["t/base"]) for name in rows}

    assert found["t/better"].value == pytest.approx(13 / 40)
    assert found["t/noisy"].low > 0, "its clips agree, its seeds do not"
    clear = {name: table.is_clear(rows[name], rows["t/base"], found[name]) for name in rows}
    assert clear == {"t/base": False, "t/better": True, "t/noisy": False, "t/same": False}
    text = table.table(rows, "t")
    assert "| better | 3 | 85.0 (82.5, 87.5) | +32.5 [" in text and "| yes |" in text
