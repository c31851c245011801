"""The benchmarks fit the package as it is."""

import sys
from importlib.util import module_from_spec, spec_from_file_location

from mirasol.train.recipe import load_recipe


def benchmark(repository, name: str):
    """The script `benchmarks/<name>.py` as a module."""
    spec = spec_from_file_location(f"benchmark_{name}", repository / "benchmarks" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_answer_benchmark_gives_every_stage(repository, untrained, monkeypatch, capsys):
    clip = repository / "data" / "clips" / "bbb_10s_360p.mp4"
    monkeypatch.setattr(sys, "argv", ["answer.py", str(clip), "--checkpoint", str(untrained), "--repeats", "0"])
    benchmark(repository, "answer").main()
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[-6:]]
    assert rows == ["loading", "decode", "features", "encode", "generate", "answer"]


def test_training_benchmark_changes_keys_that_recipes_have(repository):
    recipe = load_recipe(repository / "recipes" / "grid_nano.yaml", benchmark(repository, "training").BULK_OF_TRAINING)
    at_start = recipe.data.augmentation.at_epoch(0)
    assert at_start == recipe.data.augmentation, "the first epoch must be as the bulk of training is"
    assert recipe.schedule.pretrain_epochs == 0
