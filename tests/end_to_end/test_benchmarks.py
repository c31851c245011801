"""The benchmarks fit the package as it is."""

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from PIL import Image

from mirasol.train.recipe import load_recipe


def benchmark(repository, name: str):
    """The script `benchmarks/<name>.py` as a module."""
    spec = spec_from_file_location(f"benchmark_{name}", repository / "benchmarks" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_answer_benchmark_gives_every_stage(repository, untrained, monkeypatch, capsys):
    clip = repository / "data" / "clips" / "bbb_10s_360p.mp4"
    monkeypatch.setattr(sys, "argv", ["answer.py", str(clip), "--checkpoint", str(untrained), "--repeats", "1"])
    benchmark(repository, "answer").main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-7:]]
    assert [row[0] for row in rows] == ["loading", "decode", "features", "encode", "generate", "answer", "command"]
    assert float(rows[-1][2]) > float(rows[-2][2]), "the command imports, loads and answers"


@pytest.mark.slow
def test_gpu_benchmark_measures_a_preset(repository, tmp_path, monkeypatch):
    options = [
        "--device",
        "cpu",
        "--presets",
        "nano",
        "--frames",
        "8",
        "16",
        "--batches",
        "1",
        "2",
        "--no-compile",
        "--minutes",
        "5",
    ]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path), *options])
    benchmark(repository, "gpu").main()
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [name for name, found in results.items() if "error" in found] == [] == results["left_out"]
    assert all(found[-1] == "ok" for name, found in results["correctness"].items() if name.startswith("cpu float32"))
    rows = results["nano plain"]["rows"]
    assert [row["batch"] for row in rows] == [1, 2]
    assert rows[0]["utilisation"] > 0 and rows[0]["media_seconds_per_gpu_second"] > 0


def test_gpu_benchmark_survives_a_step_that_fails_and_leaves_out_what_does_not_fit(repository, tmp_path):
    run = benchmark(repository, "gpu").Run("cpu", 0.1, tmp_path, None)

    def fails(found):
        found["row"] = 7
        raise torch.OutOfMemoryError("79 GiB")

    run.step("fails", 1, fails)
    run.step("long", 60, fails)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["fails"]["row"] == 7 and "79 GiB" in results["fails"]["error"]
    assert results["left_out"] == ["long"] and "row" not in results["long"]


def test_training_benchmark_changes_keys_that_recipes_have(repository):
    recipe = load_recipe(repository / "recipes" / "grid_nano.yaml", benchmark(repository, "training").BULK_OF_TRAINING)
    at_start = recipe.data.augmentation.at_epoch(0)
    assert at_start == recipe.data.augmentation, "the first epoch must be as the bulk of training is"
    assert recipe.schedule.pretrain_epochs == 0


@pytest.mark.parametrize("name", ["against_mirasol_pytorch", "against_concatenation", "frames"])
def test_comparisons_explain_themselves_without_the_model(repository, name):
    """What starts the sides is light: a process starts with the memory peak of the one that made it."""
    script = repository / "benchmarks" / f"{name}.py"
    listing = (
        f"import runpy, sys; sys.argv = ['x', '--help']; sys.path.insert(0, {str(script.parent)!r})\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert "--rounds" in run.stdout and run.stdout.endswith("False\n")


def test_sides_take_turns(repository, tmp_path):
    """Every case of every side is measured once a round, after one run that does not count."""
    log = tmp_path / "log"
    child = (
        "import sys; sys.path.insert(0, sys.argv[1]); from interleaved import serve\n"
        "def job(case): open(sys.argv[2], 'a').write(sys.argv[3] + case); return {'case': case}\n"
        "serve(job, {'name': sys.argv[3]})"
    )
    folder = repository / "benchmarks"
    commands = {name: [sys.executable, "-c", child, str(folder), str(log), name] for name in ("a", "b")}

    sides = benchmark(repository, "interleaved").interleave(commands, rounds=2, cases=("1", "2"))

    assert log.read_text() == "a1a1b1b1" + "a1b1" + "a2a2b2b2" + "a2b2"
    row = sides["b"]["2"]
    assert row.facts == {"name": "b", "case": "2"}
    assert len(row.cpu) == len(row.wall) == 2 and row.peak > 1


def test_both_sides_of_the_concatenation_have_equally_many_parameters(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    script = benchmark(repository, "against_concatenation")
    with torch.device("meta"):
        ours, theirs = (
            sum(parameter.numel() for parameter in side()[1].parameters())
            for side in (script.ours, script.concatenation)
        )
    assert ours == pytest.approx(theirs, rel=0.01)


def test_plot_draws_every_line(repository, tmp_path):
    plot = benchmark(repository, "plot")
    lines = {"one": [(32, 1.0), (128, 4.0)], "other": [(32, 2.0), (128, 30.0)]}
    plot.draw(tmp_path / "new" / "plot.png", [plot.Panel("cost", "frames", "s", lines)])

    with Image.open(tmp_path / "new" / "plot.png") as image:
        colors = {color for _, color in image.convert("RGB").getcolors(100_000)}
    assert {(0x1F, 0x6F, 0xEB), (0xD1, 0x49, 0x5B)} <= colors


@pytest.mark.slow
def test_streaming_benchmark_gives_every_part(repository, untrained, monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    clip = repository / "data" / "clips" / "bbb_10s_360p.mp4"
    options = ["--chunks", "20", "--rounds", "1", "--minutes", "0.03", "0.1", "--figure", str(tmp_path / "plot.png")]
    monkeypatch.setattr(sys, "argv", ["streaming.py", str(clip), "--checkpoint", str(untrained), *options])
    benchmark(repository, "streaming").main()
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == ["file", *["sessions"] * 3, *["questions"] * 2, *["stream"] * 3]
    assert (tmp_path / "plot.png").is_file()
