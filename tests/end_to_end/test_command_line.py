"""The command as a user meets it: help, JSON, and one clear message with exit code 2 for every bad input."""

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mirasol.cli import main
from mirasol.cli.base import app, imports
from mirasol.evaluate.conditions import CONDITIONS
from tests.clips import write_clip

COLOR = "which color is named?"


@pytest.fixture
def clip(grid_root) -> str:
    return str(grid_root / "clips" / "bbaf4p.mp4")


@pytest.fixture
def refused(capsys):
    """A function that runs a command and gives its message, after checking that it was one message and code 2."""

    def run(*arguments: str | Path) -> str:
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert code == 2, printed.err
        assert printed.out == ""
        assert "Traceback" not in printed.err
        assert re.fullmatch(r"mirasol: error: .+\n", printed.err), printed.err
        return printed.err

    return run


def test_help_is_fast_and_has_examples():
    command = Path(sys.executable).with_name("mirasol")
    run = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert 'mirasol ask data/grid_s1/clips/bbaf4p.mp4 "which color is named?"' in run.stdout
    # Fast because nothing heavy is imported, which is what can be tested without a clock.
    listing = "import sys; sys.argv = ['mirasol']; import mirasol.cli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "av"} & set(run.stdout.split())


def test_garbage_is_collected_again_after_the_imports_even_if_one_fails():
    with pytest.raises(ImportError), imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_what_was_imported_is_never_looked_through_again():
    gc.unfreeze()
    with imports():
        pass
    assert gc.get_freeze_count() > 10_000


def test_a_reader_that_has_seen_enough_is_no_error():
    command = Path(sys.executable).with_name("mirasol")
    for arguments in (["data", "info", "vggsound"], ["--help"]):
        run = subprocess.Popen([command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        run.stdout.close()
        assert (run.stderr.read(), run.wait(timeout=60)) == (b"", 0)


def test_a_broken_pipe_of_the_work_is_an_error(refused, monkeypatch):
    def broken(task):
        raise BrokenPipeError(32, "a worker is gone")

    monkeypatch.setattr("mirasol.tasks.describe_task", broken)
    assert "a worker is gone" in refused("data", "info", "vggsound")


def test_an_interrupt_ends_with_code_130_and_no_traceback(monkeypatch, capsys):
    def interrupted(task):
        raise KeyboardInterrupt

    monkeypatch.setattr("mirasol.tasks.describe_task", interrupted)
    assert main(["data", "info", "vggsound"]) == 130
    assert capsys.readouterr().err == "mirasol: interrupted\n"


TREE = typer.main.get_command(app).commands
COMMANDS = [f"{name} {sub}".strip() for name in TREE for sub in getattr(TREE[name], "commands", [""])]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_speaks_json(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert ("--json" in text or command == "serve") and re.search(rf"example:\n    mirasol {command}\b", text)


def test_the_list_of_commands_is_whole(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].partition("examples:")[0]
    assert set(re.findall(r"^  (\w+) ", listed, flags=re.MULTILINE)) == {name.split()[0] for name in COMMANDS}


def test_unknown_command_names_the_nearest(refused):
    assert "found 'aks'. Did you mean 'ask'?" in refused("aks", "clip.mp4")
    assert "found 'verfy'. Did you mean 'verify'?" in refused("data", "verfy", "grid")
    assert "Did you mean" not in refused("zzz")


def test_no_command_is_refused(refused):
    assert f"Expected a COMMAND ({', '.join(TREE)}), found none." in refused()
    assert f"Expected a COMMAND ({', '.join(TREE['data'].commands)}), found none." in refused("data")


def test_a_misspelt_option_names_the_nearest(clip, refused):
    message = refused("ask", clip, COLOR, "--no-vidio")
    assert "--no-vidio" in message and "--no-video" in message and "mirasol ask --help" in message


def test_an_option_without_value_and_a_missing_argument_are_named(clip, refused):
    assert "--noise-db" in refused("evaluate", "--noise-db")
    assert "QUESTION" in refused("ask", clip)
    assert "put each in quotes" in refused("ask", clip, *COLOR.split())


@pytest.mark.parametrize("crop", ["", "x", "1,", "0.4;0.5"])
def test_a_crop_that_is_no_numbers_is_refused(clip, refused, crop):
    wrong = crop.split(",")[-1]
    assert f"expected numbers such as 0.41,0.5,0.64, found {wrong!r}" in refused("ask", clip, COLOR, "--crop", crop)


def test_a_condition_that_does_not_exist_is_refused_with_those_that_do(refused):
    message = refused("evaluate", "--condition", "sounds")
    assert "'sounds'" in message and all(name in message for name in CONDITIONS)


def test_ask_prints_answer_and_evidence(clip, untrained, capsys):
    assert main(["ask", clip, COLOR, "--checkpoint", str(untrained)]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("confidence", "covered", "sound", "used", "attribution"))
    assert re.search(r"covered +3\.0\d of 3\.0\d s, 75 frames", text)  # the sound ends a few milliseconds later


def test_ask_speaks_json(clip, untrained, capsys):
    assert main(["ask", clip, COLOR, "--no-audio", "--json", "--checkpoint", str(untrained)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["question"] == COLOR
    assert answer["sound"] == "found, not used"
    assert 0 <= answer["confidence"] <= 1


def test_missing_file(untrained, refused):
    message = refused("ask", "no/such/clip.mp4", COLOR, "--checkpoint", untrained)
    assert "no/such/clip.mp4" in message


def test_not_a_media_file(untrained, refused, tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("this is no film")
    assert "notes.mp4" in refused("ask", path, COLOR, "--checkpoint", untrained)
    assert "notes.mp4" in refused("info", path)


def test_folder_instead_of_a_clip(untrained, refused, tmp_path):
    assert str(tmp_path) in refused("ask", tmp_path, COLOR, "--checkpoint", untrained)


def test_empty_file(untrained, refused, tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    assert "empty.mp4" in refused("ask", path, COLOR, "--checkpoint", untrained)


def test_truncated_file_is_used_as_far_as_it_decodes(clip, untrained, tmp_path, capsys):
    whole = Path(clip).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(0.6 * len(whole))])
    assert main(["ask", str(path), COLOR, "--json", "--checkpoint", str(untrained)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["warnings"], "what was lost must be reported"
    assert 0.5 < answer["seconds_covered"] < 3.0


def test_track_without_length_is_left_out_and_said(untrained, tmp_path, capsys):
    path = tmp_path / "no_sound_inside.mp4"
    write_clip(path, seconds=1.0, sound_seconds=0.0)
    assert main(["ask", str(path), COLOR, "--json", "--checkpoint", str(untrained)]) == 0
    assert json.loads(capsys.readouterr().out)["sound"] == "not found"


def test_neither_picture_nor_sound_wanted(clip, untrained, refused):
    refused("ask", clip, COLOR, "--no-audio", "--no-video", "--checkpoint", untrained)


def test_question_longer_than_the_context(clip, untrained, refused):
    assert "token" in refused("ask", clip, "which color is named? " * 400, "--checkpoint", untrained)


def test_empty_question(clip, untrained, refused):
    assert "question" in refused("ask", clip, "  ", "--checkpoint", untrained)


def test_checkpoint_that_does_not_exist(clip, refused):
    assert "no/such/model" in refused("ask", clip, COLOR, "--checkpoint", "no/such/model")


def test_checkpoint_of_another_architecture(clip, refused, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    assert "'bert'" in refused("ask", clip, COLOR, "--checkpoint", tmp_path)
    assert "'bert'" in refused("info", tmp_path)


def test_unknown_recipe_key_names_the_nearest(refused, repository):
    message = refused("train", repository / "recipes" / "grid_nano.yaml", "optimizer.learnin_rate=1")
    assert "learnin_rate" in message and "learning_rate" in message


def test_missing_recipe(refused):
    assert "recipes/none.yaml" in refused("train", "recipes/none.yaml")


def test_override_without_equals_sign(refused, repository):
    assert "key=value" in refused("train", repository / "recipes" / "grid_nano.yaml", "seed")


def test_unknown_split_and_task(refused, untrained, grid_root):
    arguments = ["evaluate", "--checkpoint", untrained, "--root", grid_root]
    assert "exam" in refused(*arguments, "--split", "exam")
    assert "gird" in refused(*arguments, "--task", "gird")


def test_data_folder_that_does_not_exist(refused, untrained):
    assert "no/such/data" in refused("evaluate", "--checkpoint", untrained, "--root", "no/such/data")


def test_evaluate_counts_a_bad_clip_and_goes_on(untrained, grid_root, tmp_path, capsys):
    """Two clips of the test split, one of them not a media file."""
    lines = (grid_root / "labels.csv").read_text().splitlines()
    chosen = [line for line in lines if ",test," in line][:2]
    (tmp_path / "clips").mkdir()
    (tmp_path / "labels.csv").write_text("\n".join([lines[0], *chosen]) + "\n")
    good, bad = (line.split(",")[1] for line in chosen)
    (tmp_path / good).write_bytes((grid_root / good).read_bytes())
    (tmp_path / bad).write_text("this is no film")
    output = tmp_path / "results"
    arguments = ["--checkpoint", str(untrained), "--root", str(tmp_path), "--output", str(output), "--json"]
    assert main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr()
    clips = json.loads(printed.out)["clips"]
    assert (clips["asked"], clips["answered"], list(clips["unreadable"])) == (2, 1, [Path(bad).stem])
    assert f"mirasol: warning: 1 of 2 clips could not be read and are left out: {Path(bad).stem}" in printed.err
    assert {"metrics.json", "predictions.jsonl"} <= {path.name for path in output.iterdir()}


def test_info_describes_clip_and_checkpoint(untrained, repository, capsys):
    assert main(["info", str(repository / "data" / "clips" / "helicopter_noaudio.mp4"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sound"] is None
    assert main(["info", str(untrained), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"]["total"] > 1_000_000
    assert len(facts["area_seen_per_frame"]) == 8
    clip = repository / "data" / "clips" / "helicopter_noaudio.mp4"
    assert main(["ask", str(clip), "why " * 99, "--checkpoint", str(untrained)]) == 2
    assert f"context of {facts['context_tokens']} tokens" in capsys.readouterr().err, "the one that questions must fit"


def test_python_runs_the_package_as_the_command():
    run = [sys.executable, "-m", "mirasol", "nothing"]
    refused = subprocess.run(run, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "found 'nothing'" in refused.stderr and "usage" not in refused.stderr.lower()
