"""`mirasol data check`: every fault is counted and its first line named, and nothing is opened twice."""

import json
import shutil

import pytest
from clips import write_clip

from mirasol import DEFAULT_CHECKPOINT, MirasolProcessor
from mirasol.cli import main
from mirasol.data import check as checking
from mirasol.data.check import check


@pytest.fixture
def own(tmp_path):
    for number, name in enumerate(("heard", "other", "held", "third")):
        write_clip(tmp_path / f"{name}.mp4", seconds=0.4, at=(0.1 + number / 20,))
    write_clip(tmp_path / "silent.mp4", seconds=0.4, silent=True)
    write_clip(tmp_path / "mute.mp4", seconds=0.4, sound=False)
    write_clip(tmp_path / "long.mp4", seconds=9.0, size=(32, 32))
    (tmp_path / "junk.mp4").write_text("no clip")
    (tmp_path / "empty.mp4").write_bytes(b"")
    shutil.copy(tmp_path / "heard.mp4", tmp_path / "copy.mp4")
    shutil.copy(tmp_path / "heard.mp4", tmp_path / "leak.mp4")
    files = ("heard", "other", "silent", "mute", "long", "junk", "empty", "gone", "copy")
    train = [{"media": f"{name}.mp4", "question": "what?", "answer": "a dog"} for name in files]
    train[1]["answer"], train[-1]["answer"] = "a cat", "a cow"
    train.append({"media": "third.mp4", "question": "why " * 80, "answer": "so"})
    val = [{"media": f"{name}.mp4", "question": "what?", "answer": answer} for name, answer in
           (("leak", "a dog"), ("held", "a cat"))]  # fmt: skip
    for split, lines in (("train", train), ("val", val)):
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path


@pytest.fixture(scope="module")
def processor():
    return MirasolProcessor.from_pretrained(DEFAULT_CHECKPOINT)


def test_every_fault_is_counted_with_its_first_lines(own, processor):
    result = check(own, processor=processor, progress=False)
    found = {(finding.fault, finding.split): finding for finding in result.findings}
    counts = {key: finding.count for key, finding in found.items()}
    assert counts == {
        ("missing", "train"): 1, ("undecodable", "train"): 1, ("silent", "train"): 1, ("without sound", "train"): 1,
        ("empty", "train"): 1, ("duplicated", "train"): 1, ("longer than 5.12 s", "train"): 1,
        ("also in train", "val"): 1, ("contradicting answers", "train"): 1, ("over 64 tokens", "train"): 1,
    }  # fmt: skip
    assert "train.jsonl:8 gone.mp4" in found["missing", "train"].first[0]
    assert found["duplicated", "train"].first == [f"{own}/train.jsonl:1 = {own}/train.jsonl:9"]
    assert found["also in train", "val"].first[0].startswith(f"{own}/val.jsonl:1 = {own}/train.jsonl:")
    assert "'a dog'" in found["contradicting answers", "train"].first[0]
    assert result.clips == {"train": 10, "val": 2} and result.context == 64 and result.longest_tokens > 64


def test_an_empty_file_has_this_one_fault_and_no_twin(tmp_path):
    """All files without bytes have the same digest, and none of them can be decoded."""
    for split, names in (("train", "ab"), ("val", "cd")):
        for name in names:
            (tmp_path / f"{name}.mp4").write_bytes(b"")
        lines = [{"media": f"{name}.mp4", "question": "what?", "answer": name} for name in names]
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = {(finding.fault, finding.split): finding.count for finding in check(tmp_path, progress=False).findings}
    assert found == {("empty", "train"): 2, ("empty", "val"): 2}


def test_a_clip_of_test_that_chose_the_checkpoint_is_a_leak_too(own, capsys):
    for split, name in (("train", "other"), ("val", "held"), ("test", "held")):
        (own / f"{split}.jsonl").write_text(json.dumps({"media": f"{name}.mp4", "question": "what?", "answer": "a"}))
    assert main(["data", "check", str(own)]) == 1
    printed = capsys.readouterr().out
    assert "also in val           test         1 of 1  test.jsonl:1 = val.jsonl:1" in printed
    assert "always giving train's most common answer" in printed


def test_the_baseline_is_the_most_common_answer_of_train(own):
    result = check(own, progress=False)
    asked = {(question.split, question.text): question for question in result.asked}
    assert asked["train", "what?"].answers == {"a dog": 7, "a cat": 1, "a cow": 1}
    assert asked["train", "what?"].baseline == pytest.approx(7 / 9) and asked["val", "what?"].baseline == 0.5
    assert any("train has 10 clips, fewer than 50" in text for text in result.warnings)
    assert any("val has 2 clips" in text and "50.0 points" in text for text in result.warnings)


def test_clips_that_were_checked_are_not_opened_again_unless_they_changed(own, tmp_path, monkeypatch):
    opened = []
    original = checking.check_clip
    monkeypatch.setattr(checking, "check_clip", lambda row: opened.append(row.media.name) or original(row))
    journal = tmp_path / "out" / "check.jsonl"
    first = check(own, output=journal, progress=False)
    assert len(opened) == 12
    text = journal.read_text()
    journal.write_text(text[: len(text) // 2])  # as after a kill
    opened.clear()
    assert check(own, output=journal, progress=False).findings == first.findings
    assert 0 < len(opened) < 12
    opened.clear()
    write_clip(own / "mute.mp4", seconds=0.4)
    assert "without sound" not in {finding.fault for finding in check(own, output=journal, progress=False).findings}
    assert opened == ["mute.mp4"]


def test_a_single_file_and_clean_clips_are_checked_too(own, tmp_path, capsys):
    (tmp_path / "good.csv").write_text("media,question,answer\nheard.mp4,what?,beep\nother.mp4,what?,beep\n")
    assert main(["data", "check", str(tmp_path / "good.csv")]) == 0
    printed = capsys.readouterr().out
    assert "all 2 clips with 2 questions" in printed and "no fault of a clip or a text found" in printed
    assert "2 x 100.0%  'what?': 'beep' 2" in printed


def test_the_exit_code_is_1_only_for_what_harms_a_training(own, tmp_path, capsys):
    for names, code in (
        ("heard other silent mute long", 0), ("heard gone", 1), ("heard junk", 1), ("heard copy", 1),
    ):  # fmt: skip
        rows = [f"{name}.mp4,what?,beep\n" for name in names.split()]
        (tmp_path / "some.csv").write_text("media,question,answer\n" + "".join(rows))
        command = ["data", "check", str(tmp_path / "some.csv"), "--checkpoint", str(DEFAULT_CHECKPOINT)]
        assert main(command) == code, names
        assert ("to mend before training" in capsys.readouterr().out) == bool(code)
    assert main(["data", "check", str(tmp_path / "nothing.csv")]) == 2


def test_the_sheet_shows_frames_and_sound_of_each_clip_and_says_what_cannot_be_read(own, tmp_path, capsys):
    page = tmp_path / "sheet.html"
    assert main(["data", "check", str(own), "--split", "train", "--sheet", str(page), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["sheet"] == str(page)
    text = page.read_text()
    assert text.count("<section>") == 10 and text.count('alt="spectrogram"') == 6
    assert "cannot be opened as one" in text and "No sound." in text and 'alt="frame 1 of' in text


def test_shards_are_checked_without_a_copy(own, tmp_path):
    from mirasol.data.shard import shard

    (tmp_path / "m.jsonl").write_text('{"media": "heard.mp4", "question": "q", "answer": "a"}\n'
                                      '{"media": "copy.mp4", "question": "q", "answer": "a"}\n')  # fmt: skip
    shard(tmp_path / "m.jsonl", tmp_path / "tars", progress=False)
    result = check(tmp_path / "tars", progress=False)
    assert result.clips == {"all": 2} and [finding.fault for finding in result.findings] == ["duplicated"]
