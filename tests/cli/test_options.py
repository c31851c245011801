"""Every argument and option of every command arrives in the work under its own name."""

import importlib
import inspect
import itertools
import json
import os
import shlex
import warnings
from pathlib import Path

import pytest
import typer

from mirasol.answer.reading import Reading
from mirasol.cli import main
from mirasol.cli.base import app
from mirasol.serve.access import Keys
from mirasol.serve.run import Setup, Tls

MEDIA = (
    "--start 1 --end 2.5 --sampling dense --max-chunks 4 --device cpu --dtype bfloat16 --decoder pyav "
    "--max-new-tokens 5"
)
LOADING = {
    "sampling": "dense", "max_chunks": 4, "device": "cpu", "dtype": "bfloat16", "decoder": "pyav", "max_new_tokens": 5,
}  # fmt: skip
# The command with all its options, the function that does the work, and what reaches it.
WORK = {
    "ask": (
        f"clip.mp4 'what is said?' --no-video --crop 0.5,0.4,0.3 --checkpoint mine --audio-stream 1 "
        f"--abstain-below 0.5 {MEDIA}",
        "mirasol.answer.ask.ask_all",
        {"clip": "clip.mp4", "questions": ["what is said?"], "checkpoint": "mine", "abstain_below": 0.5,
         "reading": Reading(1.0, 2.5, use_video=False, crop=(0.5, 0.4, 0.3), audio_stream=1), **LOADING},
    ),
    "predict": (
        "clips other.mp4 --ask what? --ask where? --rank --options 'a,\"b, c\"' --no-audio --crop 0.5"
        " --checkpoint mine --output o.csv --segment-seconds 5 --abstain-below 0.5 --batch-size 3 --workers 0 "
        f"--audio-stream en {MEDIA}",
        "mirasol.answer.predict.predict",
        {"sources": ["clips", "other.mp4"], "questions": ["what?", "where?"], "checkpoint": "mine",
         "reading": Reading(1.0, 2.5, use_audio=False, crop=(0.5,), audio_stream="en"), "options": ("a", "b, c"),
         "rank": True, "segment_seconds": 5.0, "output": "o.csv", "batch_size": 3, "workers": 0,
         "abstain_below": 0.5,
         **LOADING},
    ),
    "train": (
        "recipe.yaml seed=1 device=cpu --gpus 1 --gpu h100 --utilisation 0.4 --clips 1",  # read with --dry-run only
        "mirasol.train.run.train",
        {"recipe_path": "recipe.yaml", "overrides": ["seed=1", "device=cpu"]},
    ),
    "train --dry-run": (
        "recipe.yaml seed=1 --gpus 64 --gpu a100 --utilisation 0.3 --clips 9",
        "mirasol.train.plan.plan",
        {"recipe_path": "recipe.yaml", "overrides": ["seed=1"], "num_gpus": 64, "gpu": "a100", "utilisation": 0.3,
         "num_clips": 9},
    ),
    "new": ("mine", "mirasol.train.starter.new", {"folder": "mine"}),
    "init": (
        "--vision v --audio a --text t -o new --max-chunks 3 use_audio=false",
        "mirasol.convert.init",
        {"vision": "v", "audio": "a", "text": "t", "output": "new", "max_chunks": 3, "overrides": ["use_audio=false"]},
    ),
    "evaluate": (
        "--checkpoint mine --task fsdd --root there --split val --condition sound,both --rank --audit "
        "--classes names.csv --noise-db -5,-10 --noise-seeds 2,3 --max-clips 3 --metric number --abstain-below 0.5 "
        f"--output results --batch-size 4 --workers 0 {MEDIA}",
        "mirasol.evaluate.runner.evaluate",
        {"checkpoint": "mine", "task": "fsdd", "root": "there", "split": "val", "condition": ("sound", "both"),
         "rank": True,
         "audit": True, "classes": "names.csv", "noise_db": (-5.0, -10.0), "noise_seeds": (2, 3),
         "start": 1.0, "end": 2.5, **LOADING,
         "max_clips": 3,
         "output": "results", "batch_size": 4, "workers": 0, "metric": "number", "abstain_below": 0.5},
    ),
    "compare": (
        "before after --output page.html",
        "mirasol.report.compare.compare",
        {"first": "before", "second": "after", "output": "page.html"},
    ),
    "calibrate": (
        "--checkpoint mine --task grid,fsdd --root there,here --split val,test --condition sound,both --noise-db -5,0 "
        f"--max-clips 3 --metric number --classes names.csv --batch-size 4 --workers 0 --output results {MEDIA}",
        "mirasol.evaluate.temperature.calibrate_checkpoint",
        {"checkpoint": "mine", "tasks": ("grid", "fsdd"), "roots": ("there", "here"), "splits": ("val", "test"),
         "condition": ("sound", "both"), "noise_db": (-5.0, 0.0), "max_clips": 3, "output": "results",
         "metric": "number", "classes": "names.csv", "batch_size": 4, "workers": 0, "start": 1.0, "end": 2.5,
         **LOADING},
    ),
    "info": ("3b", "mirasol.report.info.info", {"path": "3b"}),
    "export": (
        "new --checkpoint mine",
        "mirasol.convert.flat_folder.write_flat_folder",
        {"output": "new", "checkpoint": "mine"},
    ),
    "demo": (
        "--checkpoint mine --root there --max-clips 3 --output page.html",
        "mirasol.report.demo.demo",
        {"checkpoint": "mine", "root": "there", "max_clips": 3, "output": "page.html"},
    ),
    "watch": (
        "film.mp4 --ask what? --ask where? --every 5 --save session --jsonl lines.jsonl --realtime --no-audio "
        "--no-video --timeout 3 --max-lag 2 --checkpoint mine --crop 0.5 --audio-stream ger "
        "--max-chunks 4 --device cpu --dtype bfloat16 --max-new-tokens 5",
        "mirasol.answer.watch.watch",
        {"source": "film.mp4", "questions": ["what?", "where?"], "every": 5.0, "save": "session",
         "jsonl": "lines.jsonl", "realtime": True, "use_audio": False, "use_video": False, "timeout": 3.0,
         "max_lag": 2.0,
         "answerer": ("mine", {"max_chunks": 4, "device": "cpu", "dtype": "bfloat16", "max_new_tokens": 5}),
         "crop": (0.5,), "audio_stream": "ger"},
    ),
    "serve": (
        "--host 0.0.0.0 --port 8001 --checkpoint mine --folder kept --allow-url-host a.org --allow-url-host b.org:81 "
        "--api-key-file keys --tls --tls-cert cert.pem --tls-key key.pem "
        "--sampling dense --max-chunks 4 --device cpu --dtype bfloat16 --decoder pyav --max-new-tokens 5",
        "mirasol.serve.run.serve",
        {"setup": Setup("0.0.0.0", 8001, "mine", Path("kept"), hosts=["a.org", "b.org:81"], keys=Keys({"keys": "one"}),
                        tls=Tls("cert.pem", "key.pem"), loading=LOADING)},
    ),
    "data info": ("vggsound", "mirasol.tasks.describe_task", {"name": "vggsound"}),
    "data verify": (
        "vggsound --root there --split train --classes names.csv --workers 3 --output coverage.json",
        "mirasol.data.verify.verify",
        {"task": "vggsound", "root": "there", "split": "train", "classes": "names.csv", "workers": 3,
         "output": "coverage.json"},
    ),
    "data check": (
        "clips --split val --recipe recipe.yaml --checkpoint mine --sheet page.html --sheet-clips 3 "
        "--columns media=video --question what? --workers 3 --output lines.jsonl",
        "mirasol.report.sheet.check_with_sheet",
        {"source": "clips", "recipe": "recipe.yaml", "checkpoint": "mine", "sheet": "page.html", "sheet_clips": 3,
         "split": "val", "columns": {"media": "video"}, "question": "what?", "workers": 3, "output": "lines.jsonl"},
    ),
    "data convert": (
        "hf:owner/name -o clips.jsonl --split val --columns media=video,answer=caption --question what?",
        "mirasol.data.convert.convert",
        {"source": "hf:owner/name", "output": "clips.jsonl", "split": "val",
         "columns": {"media": "video", "answer": "caption"}, "question": "what?"},
    ),
    "data shard": (
        "clips -o shards --split val --columns media=video --question what? --clips-per-shard 3 --height 128 "
        "--gop 5 --processes 3",
        "mirasol.data.shard.shard",
        {"manifest": "clips", "output": "shards", "split": "val", "columns": {"media": "video"}, "question": "what?",
         "clips_per_shard": 3, "height": 128, "gop": 5, "processes": 3},
    ),
    "data index": ("shards", "mirasol.data.shard.index_folder", {"folder": "shards"}),
}  # fmt: skip
PRINTING = [command for command in WORK if command != "serve"]  # it says its address, and nothing at the end


class Result:
    """A result as the work returns it."""

    def __str__(self):
        return "as text"

    def as_dict(self):
        return {"form": "as JSON"}

    exit_code = 0


@pytest.fixture
def received(monkeypatch):
    """A function that replaces the work by one that notes its arguments, and returns the notes."""

    def replace(work: str) -> dict:
        module, _, name = work.rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), name))
        notes: dict = {}

        def note(*arguments, **keywords):
            notes.update(parameters.bind(*arguments, **keywords).arguments)
            for each in ("show", "write", "report"):  # of `watch`, `predict`, `train`: what draws or prints
                notes.pop(each, None)
            for name, parameter in parameters.parameters.items():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    notes.update(notes.pop(name, {}))
            return Result()

        monkeypatch.setattr(work, note)
        monkeypatch.setattr(
            "mirasol.answer.answerer.Answerer.load", lambda checkpoint, **options: (checkpoint, options)
        )
        monkeypatch.setattr("mirasol.serve.access.Keys.load", lambda path: Keys({path: "one"}))
        monkeypatch.setattr("mirasol.report.run.write_report", lambda result: None)
        return notes

    return replace


def options_of(command: str) -> set[str]:
    """The long options of a command."""
    found = typer.main.get_command(app)
    for word in command.partition(" --")[0].split():
        found = found.commands[word]
    return {option for parameter in found.params for option in parameter.opts if option.startswith("--")}


def test_every_command_is_tried_here():
    tree = typer.main.get_command(app).commands
    names = [f"{name} {sub}".strip() for name in tree for sub in getattr(tree[name], "commands", [""])]
    assert set(names) == {command.partition(" --")[0] for command in WORK}


@pytest.mark.parametrize("command", WORK)
def test_every_option_reaches_the_work(command, received, capsys):
    line, work, expected = WORK[command]
    words = shlex.split(line)
    untried = options_of(command) - {"--json", "--help", "--output", "--dry-run"} - set(words)
    elsewhere = {"--engine", "--replicas"} if command == "serve" else set()  # in the next test: another work
    # Without picture and sound there is nothing to watch.
    assert untried <= {"--no-audio", "--no-video"} | elsewhere, "an option is not tried here"
    notes = received(work)
    assert main([*command.split(), *words]) == 0
    assert notes == expected
    assert capsys.readouterr().out == ("as text\n" if command in PRINTING else "")


def test_a_server_has_the_defaults_of_its_setup_and_its_replicas_reach_ray(received, capsys):
    one = received("mirasol.serve.run.serve")
    assert main(["serve"]) == 0 and one == {"setup": Setup()}
    many = received("mirasol.integrations.ray_serve.serve")
    assert main(["serve", "--engine", "ray", "--replicas", "3"]) == 0
    assert many == {"setup": Setup(), "replicas": 3}
    assert main(["serve", "--replicas", "3"]) == 2 and "--engine ray" in capsys.readouterr().err


@pytest.mark.parametrize("command", PRINTING)
def test_every_result_is_printed_as_json_when_asked(command, received, capsys):
    line, work, _ = WORK[command]
    received(work)
    assert main([*command.split(), "--json", *shlex.split(line)]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"form": "as JSON"} and printed.startswith('{\n  "form"'), "for people's eyes too"


@pytest.mark.parametrize("command", [command for command in WORK if command not in ("init", "data verify")])
def test_options_that_are_not_given_have_the_defaults_of_the_work(command, received):
    """One default in two places must be one value."""
    line, work, _ = WORK[command]
    module, _, name = work.rpartition(".")
    defaults = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    notes = received(work)
    given = [word for word in shlex.split(line.partition("--")[0]) if "=" not in word]
    assert main([*command.split(), *given]) == 0
    for name, value in notes.items():
        if name not in defaults or name == "overrides" or value in given:
            continue
        if defaults[name].default is not inspect.Parameter.empty:
            default = defaults[name].default
            assert value in (default, (default,)), name


@pytest.mark.parametrize("command", WORK)
def test_counts_below_their_least_and_no_numbers_are_refused_by_option_and_value(command, received, capsys):
    line, work, _ = WORK[command]
    notes = received(work)
    least = {"--max-clips": 1, "--max-chunks": 1, "--batch-size": 1, "--workers": int(command.startswith("data "))}
    for option in options_of(command) & set(least):
        for value in (str(least[option] - 1), "many", "1.5", ""):
            pairs = itertools.pairwise(["", *shlex.split(line)])
            words = [value if before == option else word for before, word in pairs]
            assert main([*command.split(), *words]) == 2
            message = capsys.readouterr().err
            assert f"'{option}'" in message and f"found {value!r}" in message
        words[words.index(option) + 1] = str(least[option])
        assert main([*command.split(), *words]) == 0
        setup, (_, options) = notes.get("setup", Setup()), notes.get("answerer", (None, {}))
        assert {**notes, **options, **setup.loading}[option[2:].replace("-", "_")] == least[option]


# Of these, a calibration takes several, or has another split to be fitted on than is reported.
SEVERAL = {"--task", "--root", "--split", "--condition"}


def test_an_option_of_one_name_means_the_same_in_every_command_that_answers():
    declared: dict = {}
    for name in ("ask", "predict", "evaluate", "compare", "calibrate"):
        for parameter in typer.main.get_command(app).commands[name].params:
            if parameter.opts[0].startswith("--") and parameter.opts[0] not in SEVERAL | {"--output", "--help"}:
                facts = parameter.help, parameter.default, parameter.metavar
                declared.setdefault(parameter.opts[0], {}).setdefault(facts, []).append(name)
    assert {option: found for option, found in declared.items() if len(found) > 1} == {}
    shared = {"--checkpoint", "--device", "--batch-size", "--workers", "--start", "--sampling", "--max-new-tokens"}
    for name in ("predict", "evaluate", "calibrate"):
        assert shared <= options_of(name), name
    assert {"--metric", "--classes", "--noise-db", "--max-clips"} <= options_of("evaluate") & options_of("calibrate")
    for name in ("ask", "predict", "evaluate"):
        assert "--abstain-below" in options_of(name)


def test_a_warning_is_one_line_on_stderr(monkeypatch, capsys):
    def warn(path):
        warnings.warn("the sound is not used", stacklevel=1)

    monkeypatch.setattr("mirasol.report.info.info", warn)
    assert main(["info", "3b"]) == 0
    assert capsys.readouterr() == ("", "mirasol: warning: the sound is not used\n")


def test_a_file_whose_name_begins_with_a_dash_follows_two_dashes(received):
    notes = received("mirasol.answer.ask.ask_all")
    assert main(["ask", "--", "-clip.mp4", "--what?"]) == 0
    assert (notes["clip"], notes["questions"]) == ("-clip.mp4", ["--what?"])


def test_of_several_processes_the_one_without_a_result_prints_nothing(monkeypatch, capsys):
    monkeypatch.setattr("mirasol.evaluate.runner.evaluate", lambda **options: None)
    assert main(["evaluate", "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_torch_is_told_not_to_spin_while_it_waits(monkeypatch, received):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    received("mirasol.report.info.info")
    assert main(["info", "3b"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_a_wrong_name_among_several_is_the_one_that_is_named(capsys):
    assert main(["evaluate", "--condition", "both,sond"]) == 2
    assert "found 'sond'. Did you mean 'sound'?" in capsys.readouterr().err


def test_an_empty_text_between_commas_is_no_option(capsys):
    assert main(["predict", "clip.mp4", "--ask", "what?", "--options", "red,blue,"]) == 2
    assert "expected texts, found ''" in capsys.readouterr().err
