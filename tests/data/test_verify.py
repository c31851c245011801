"""Coverage of a benchmark: every clip is present, missing, undecodable or silent, and the manifest says which."""

import json

import numpy as np
import pytest
from clips import write_clip

from mirasol.cli import main
from mirasol.data.verify import check_clip, verify
from mirasol.media import read_clip
from mirasol.tasks import Row

LINE = '{{"media": "{}", "question": "what?", "answer": "this", "id": "{}"{}}}\n'


@pytest.fixture
def root(tmp_path):
    write_clip(tmp_path / "heard.mp4", seconds=0.4, at=(0.1,))
    write_clip(tmp_path / "silent.mp4", seconds=0.4, silent=True)
    write_clip(tmp_path / "mute.mp4", seconds=0.4, sound=False)
    write_clip(tmp_path / "sound.wav", seconds=0.4, at=(0.1,))
    (tmp_path / "junk.mp4").write_text("no clip")
    names = ("heard.mp4", "silent.mp4", "mute.mp4", "sound.wav", "junk.mp4", "gone.mp4")
    lines = [LINE.format(name, name, "") for name in names]
    lines.append(LINE.format("heard.mp4", "late", ', "segment": [5, 6]'))
    lines.append(LINE.format("heard.mp4", "part", ', "segment": [0.2, 0.3]'))
    (tmp_path / "test.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.mark.filterwarnings("ignore:1 of 8 clips:UserWarning")
def test_every_clip_is_in_its_state(root):
    coverage = verify("jsonl", root, output=root / "out" / "coverage.json", workers=2, progress=False)
    found = {clip.id: (clip.status, clip.has_picture, clip.sound) for clip in coverage.clips}
    assert found == {
        "heard.mp4": ("present", True, "heard"),
        "silent.mp4": ("present", True, "silent"),
        "mute.mp4": ("present", True, "none"),
        "sound.wav": ("present", False, "heard"),
        "junk.mp4": ("undecodable", None, None),
        "gone.mp4": ("missing", None, None),
        "late": ("undecodable", None, None),
        "part": ("present", True, "silent"),  # after the beep there is a faint hum, which is no silence
    } | {"part": ("present", True, "heard")}
    manifest = json.loads((root / "out" / "coverage.json").read_text())
    assert manifest == json.loads(json.dumps(coverage.as_dict()))
    assert manifest["counts"] == {
        "clips": 8, "present": 5, "missing": 1, "undecodable": 2, "silent": 1, "without sound": 1,
        "without picture": 1, "damaged": 0, "questions": 8, "questions of present": 5,
    }  # fmt: skip
    reasons = {clip["id"]: clip["notes"] for clip in manifest["clips"]}
    assert "cannot be opened" in reasons["junk.mp4"][0] and "from 5.00 s to 6.00 s" in reasons["late"][0]


@pytest.mark.filterwarnings("ignore:1 of 8 clips:UserWarning")
def test_the_table_names_states_shares_and_clips(root, capsys):
    assert main(["data", "verify", "jsonl", "--root", str(root)]) == 0
    table = capsys.readouterr().out
    assert "jsonl test: 8 clips, 8 questions" in table and "5 of them about clips that are present" in table
    lines = {line[2:19].strip(): line[19:].split() for line in table.splitlines() if line.startswith("  ")}
    assert lines["missing"] == ["1", "12.5%", str(root / "gone.mp4")]
    assert lines["undecodable"] == ["2", "25.0%", "junk.mp4,", "late"]


def test_what_a_codec_leaves_of_silence_is_silent(tmp_path):
    path = write_clip(tmp_path / "a.wav", seconds=0.4, at=(0.1,), channel_gains=(2e-4, 2e-4))
    assert 0 < np.abs(read_clip(path).waveform).max() < 2e-4  # three steps of 16 bits, -80 dB
    assert check_clip(Row("a", path)).sound == "silent"


def test_a_crash_in_one_clip_is_that_clips_state(root, monkeypatch):
    monkeypatch.setattr("mirasol.data.verify.read_clip", lambda *_, **__: 1 / 0)
    state = check_clip(Row("a", root / "heard.mp4"))
    assert (state.status, state.notes) == ("undecodable", ("ZeroDivisionError: division by zero",))


def test_facts_of_a_benchmark_are_printed(capsys):
    assert main(["data", "info", "epic_sounds"]) == 0
    assert "val 8,035" in capsys.readouterr().out
    assert main(["data", "info", "epic_sounds", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"] == {"val": 8035}


def test_an_unknown_benchmark_is_refused(capsys):
    assert main(["data", "info", "epicsounds"]) == 2
    assert "Did you mean 'epic_sounds'?" in capsys.readouterr().err


def test_sound_too_short_for_the_model_is_not_present(tmp_path):
    path = write_clip(tmp_path / "click.wav", seconds=0.002)
    state = check_clip(Row(id="click", media=path, questions=[]))
    assert state.status == "undecodable" and "0.01 s of sound, found 0.002 s" in state.notes[0]
