"""ESC-10, spoken digits and aerial objects: splits that share nothing, classes in words, the real files' counts."""

from pathlib import Path

import pytest

from mirasol.tasks import get_task

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not (DATA / "esc10").is_dir(), reason="needs the clips of ../shared/data")


def ids(name: str, root: Path, split: str) -> set[str]:
    rows = get_task(name).load(root, split)
    assert len({row.id for row in rows}) == len(rows)
    return {row.id for row in rows}


@pytest.mark.parametrize("header", ["file,fold,label\n", "filename,fold,category\n"])
def test_esc10_holds_out_a_fold_and_validates_on_others(tmp_path, header):
    lines = [f"{fold}-{take}-A.wav,{fold},{label}\n" for fold in range(1, 6) for label in ("dog_bark", "rain")
             for take in range(10 * (label == "rain"), 10 * (label == "rain") + 8)]  # fmt: skip
    (tmp_path / ("meta.csv" if header.startswith("file,") else "esc50.csv")).write_text(header + "".join(lines))
    train, val, test = (ids("esc10", tmp_path, split) for split in ("not_fold2", "val_fold2", "fold2"))
    assert (len(train), len(val), len(test)) == (56, 8, 16)
    # Every eighth by class and name, from the first on: four clips of each class.
    assert val == {f"esc10/{fold}-{take}-A" for fold in (1, 3, 4, 5) for take in (0, 10)}
    assert not (train & val or train & test or val & test)
    assert all(clip.startswith("esc10/2-") for clip in test)
    assert ids("esc10", tmp_path, "test") == ids("esc10", tmp_path, "fold5")
    row = get_task("esc10").load(tmp_path, "fold1")[0]
    assert row.questions[0].answer == "dog bark" and row.questions[0].options == ("dog bark", "rain")


def test_esc10_takes_only_its_classes_out_of_esc50(tmp_path):
    (tmp_path / "esc50.csv").write_text("filename,fold,category,esc10\n1-1-A.wav,5,rain,True\n1-2-A.wav,5,cow,False\n")
    assert ids("esc10", tmp_path, "fold5") == {"esc10/1-1-A"}


def test_digits_are_split_by_recording_number(tmp_path):
    for name in ("3_ann_0.wav", "3_ann_5.wav", "3_ann_10.wav", "notes.wav"):
        (tmp_path / name).touch()
    found = {split: ids("fsdd", tmp_path, split) for split in ("test", "val", "train")}
    assert found == {"test": {"fsdd/3_ann_0"}, "val": {"fsdd/3_ann_5"}, "train": {"fsdd/3_ann_10"}}
    assert get_task("fsdd").load(tmp_path, "val")[0].questions[0].answer == "three"


def test_neighbouring_flights_and_seconds_of_one_file_stay_together(tmp_path):
    for number in (1, 5, 16, 20, 21, 25, 26):
        (tmp_path / f"V_BIRD_{number:03d}.mp4").touch()
    (tmp_path / "DRONE_016.wav").touch()
    assert ids("drone", tmp_path, "train") == {f"drone/V_BIRD_{number:03d}" for number in (1, 5, 26)}
    val = get_task("drone").load(tmp_path, "val")
    assert {row.id for row in val if row.segment is None} == {"drone/V_BIRD_016", "drone/V_BIRD_020"}
    assert [row.segment for row in val if row.segment] == [(start, start + 1) for start in range(10)]
    assert ids("drone", tmp_path, "test") == {"drone/V_BIRD_021", "drone/V_BIRD_025"}
    assert {row.crop for row in val} == {(1.0, 0.5, 0.5), None} and all(row.crop is None for row in val if row.segment)
    halves = [ids("drone", tmp_path, f"val_{half}") for half in ("picture", "sound")]
    assert halves[0] == {"drone/V_BIRD_016", "drone/V_BIRD_020"} and len(halves[1]) == 10


@pytest.mark.parametrize(
    ("name", "split"), [("esc10", "fold6"), ("fsdd", "dev"), ("drone", "dev"), ("fsdd", "train"), ("drone", "val")]
)
def test_unknown_splits_and_empty_folders_are_refused(tmp_path, name, split):
    with pytest.raises(ValueError, match="Expected (split|recordings|clips)"):
        get_task(name).load(tmp_path, split)


@needs_shared
@pytest.mark.parametrize(
    ("name", "folder", "counts"),
    [
        ("esc10", "esc10", {"train": 280, "val": 40, "test": 80, "fold3": 80}),
        ("fsdd", "fsdd", {"train": 2400, "val": 300, "test": 300}),
    ],
)
def test_counts_of_the_real_files(name, folder, counts):
    assert {split: len(ids(name, DATA / folder, split)) for split in counts} == counts


@needs_shared
def test_aerial_classes_are_in_every_split():
    for split in ("train", "val", "test"):
        rows = get_task("drone").load(DATA / "drone_cc0", split)
        answers = {
            kind: {q.answer for row in rows for q in row.questions if q.kind == kind} for kind in ("picture", "sound")
        }
        assert {kind: len(found) for kind, found in answers.items()} == {"picture": 4, "sound": 3}
