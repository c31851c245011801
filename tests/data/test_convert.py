"""Every kind of manifest gives the same rows, and conversions between them keep all that the other has a place for."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from clips import write_clip

from mirasol.cli import main
from mirasol.data.convert import convert, load_rows
from mirasol.data.shard import index_folder, shard
from mirasol.media import read_clip
from mirasol.tasks import get_task


def described(rows):
    return sorted(str([row.segment, row.crop, [replace(q, id="") for q in row.questions]]) for row in rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_manifest_is_the_same_after_a_conversion(manifest, tmp_path, suffix):
    output = tmp_path / "deep" / f"train{suffix}"
    result = convert(manifest, output)
    assert (result.clips, result.questions, result.files_written, result.lost) == (6, 8, 0, {})
    originals, rows = get_task("jsonl").load(manifest), get_task("jsonl").load(output.parent, "train")
    assert [row.media.resolve() for row in rows] == [row.media.resolve() for row in originals]
    assert described(rows) == described(originals)


def test_conversations_keep_questions_and_answers_and_say_what_they_lose(manifest, tmp_path):
    result = convert(manifest, tmp_path / "train.json")
    assert result.lost == {
        "kind": 1, "metric": 1, "tolerance": 1, "options": 1, "segment": 1, "seconds": 1, "crop": 1,
        "further answers": 1,
    }  # fmt: skip
    texts = [
        sorted((q.text, q.answer) for row in get_task("jsonl").load(path) for q in row.questions)
        for path in (manifest, tmp_path / "train.json")
    ]
    assert texts[0] == texts[1]


def test_llava_entries_are_read_and_faults_are_named_by_entry(manifest, tmp_path):
    def entry(**changes):
        turns = [
            {"from": "human", "value": "<video>\nWhat barks?"}, {"from": "gpt", "value": "a dog"},
            {"from": "human", "value": "How often?"}, {"from": "gpt", "value": "twice"},
        ]  # fmt: skip
        return {"id": "x", "video": str(manifest.parent / "a.mp4"), "conversations": turns} | changes

    path = tmp_path / "list.json"
    path.write_text(json.dumps([entry(), entry(id=7, audio=str(manifest.parent / "b.wav"), video="")]))
    rows = get_task("jsonl").load(path)
    assert [row.media.name for row in rows] == ["a.mp4", "b.wav"] and [row.id for row in rows] == ["x", "7"]
    assert [(q.text, q.answer) for q in rows[0].questions] == [("What barks?", "a dog"), ("How often?", "twice")]
    path.write_text(json.dumps([entry(video=None), entry(audio="b.wav"), entry(conversations=[]), {"id": "y"}]))
    with pytest.raises(ValueError, match="found 4 malformed") as refusal:
        get_task("jsonl").load(path)
    message = str(refusal.value)
    assert "list.json:1: expected one file as 'video' or 'audio', found neither" in message
    assert "list.json:2" in message and "ffmpeg -i VIDEO -i AUDIO" in message
    assert "list.json:3: expected 'conversations' with alternating turns" in message
    assert "list.json:4: expected text for 'media'" in message


def test_rows_of_a_table_name_their_line_where_something_is_missing(manifest, tmp_path):
    path = tmp_path / "train.csv"
    lines = ["media,question,answer", f"{manifest.parent / 'a.mp4'},what?,", "b.mp4,what?", ",what?,x"]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError) as refusal:
        get_task("jsonl").load(path)
    message = str(refusal.value)
    assert "train.csv:2: expected either 'answer' or 'answers', found neither" in message
    assert "train.csv:3: expected 3 fields, found 2" in message
    assert "train.csv:4: expected text for 'media'" in message


def test_a_number_as_an_answer_stays_text(manifest, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(f"media,question,answer\n{manifest.parent / 'a.mp4'},how many?,3\n")
    assert get_task("jsonl").load(path)[0].questions[0].answer == "3"


def test_a_folder_for_each_class_asks_which(tmp_path):
    for place in ("train/dog_bark/1", "train/dog_bark/2", "train/rain/1", "val/rain/9"):
        file = tmp_path / f"{place}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_clip(file, seconds=0.2)
    rows = get_task("jsonl").load(tmp_path, "train")
    assert [(row.id, row.questions[0].answer) for row in rows] == [
        ("dog_bark/1", "dog bark"), ("dog_bark/2", "dog bark"), ("rain/1", "rain")
    ]  # fmt: skip
    assert len(get_task("jsonl").load(tmp_path, "val")) == 1
    for name in ("answers.csv", "answers.csv.run.json"):  # of `mirasol predict --output answers.csv`
        (tmp_path / name).write_text("{}")
    assert len(get_task("jsonl").load(tmp_path, "val")) == 1
    assert main(["data", "convert", str(tmp_path), "-o", str(tmp_path / "a.csv"), "--question", "which sound?"]) == 0
    assert {q.text for row in get_task("jsonl").load(tmp_path / "a.csv") for q in row.questions} == {"which sound?"}


def test_cells_of_a_dataset_may_be_paths_bytes_decoders_or_arrays(manifest, tmp_path):
    datasets = pytest.importorskip("datasets")
    clip, sound = manifest.parent / "a.mp4", manifest.parent / "b.wav"
    rate, tone = 8_000, (np.sin(np.arange(4_000) / 5) / 2).astype(np.float32)
    labels = datasets.ClassLabel(names=["cat", "big_dog"])
    kinds = {
        "path": (str(clip), datasets.Value("string")),
        "video": ({"bytes": None, "path": str(clip)}, datasets.Video(decode=False)),
        "bytes": ({"bytes": sound.read_bytes(), "path": "b.wav"}, datasets.Audio()),
        "binary": (clip.read_bytes(), datasets.Value("binary")),
        "array": ({"array": tone, "sampling_rate": rate},
                  {"array": datasets.List(datasets.Value("float32")), "sampling_rate": datasets.Value("int64")}),
    }  # fmt: skip
    for name, (cell, feature) in kinds.items():
        features = datasets.Features({"clip": feature, "label": labels, "split": datasets.Value("string")})
        data = datasets.Dataset.from_dict({"clip": [cell], "label": [1], "split": ["x"]}, features=features)
        saved = tmp_path / name
        data.save_to_disk(saved)
        (row,) = load_rows(saved, columns={"media": "clip", "answer": "label"}, question="which animal?")
        assert (row.questions[0].text, row.questions[0].answer) == ("which animal?", "big dog"), name
        found = read_clip(row.media)
        expected = read_clip(sound if name == "bytes" else clip) if name != "array" else None
        if expected is None:
            assert found.duration == pytest.approx(0.5) and np.abs(found.waveform).max() == pytest.approx(0.5, abs=0.1)
        else:
            assert found.duration == expected.duration and np.array_equal(found.waveform, expected.waveform)
    parquet = tmp_path / "train.parquet"
    data.to_parquet(parquet)
    result = convert(parquet, tmp_path / "out" / "train.jsonl", columns={"media": "clip", "answer": "label"},
                     question="which?")  # fmt: skip
    assert result.files_written == 1
    (row,) = get_task("jsonl").load(tmp_path / "out", "train")
    assert row.media.suffix == ".wav" and read_clip(row.media).duration == pytest.approx(0.5)
    shard(parquet, tmp_path / "tars", columns={"media": "clip", "answer": "label"}, question="which?", progress=False)
    (row,) = get_task("shards").load(tmp_path / "tars")
    assert read_clip(row.media).duration == pytest.approx(0.5)


def test_relative_paths_in_parquet_are_relative_to_its_folder(manifest, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    for cell in ("a.mp4", {"bytes": None, "path": "a.mp4"}):
        path = manifest.parent / "relative.parquet"
        datasets.Dataset.from_dict({"media": [cell], "answer": ["x"]}).to_parquet(path)
        (row,) = load_rows(path, question="which?")
        assert row.media == manifest.parent / "a.mp4"


def test_media_of_a_tar_are_written_inside_the_folder_and_each_under_a_name_of_its_own(tmp_path):
    names = ["../../../escaped", "deep/a", "deep-a", "a/../b"]
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            text = json.dumps({"question": "what?", "answer": name})
            for suffix, data in ((".wav", name.encode()), (".json", text.encode())):
                info = tarfile.TarInfo(f"{name}{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    index_folder(tmp_path, progress=False)
    folder = tmp_path / "deep" / "er"
    assert convert(tmp_path, folder / "out.jsonl").files_written == 4
    rows = get_task("jsonl").load(folder / "out.jsonl")
    assert {row.media.read_text() for row in rows} == {row.questions[0].answer for row in rows} == set(names)
    assert {row.media.resolve().parent for row in rows} == {folder / "out"}


def test_a_decoder_object_gives_the_file_it_decodes():
    from mirasol.tasks.hub import bytes_of_cell

    class Decoder:
        _hf_encoded = {"bytes": b"abc", "path": None}

    assert bytes_of_cell(Decoder(), "here") == b"abc"
    with pytest.raises(ValueError, match="path, bytes, or array with sampling_rate at here, found dict with"):
        bytes_of_cell({"frames": 3}, "here")


def test_a_wrong_column_names_those_that_exist(manifest, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"clip": ["a.mp4"], "label": ["x"]}).save_to_disk(tmp_path / "d")
    with pytest.raises(ValueError, match="Expected a column 'media' with the clips of .*--columns media=clip"):
        load_rows(tmp_path / "d")
    with pytest.raises(ValueError, match="found media=clp. Did you mean 'clip'"):
        load_rows(tmp_path / "d", columns={"media": "clp"})
    with pytest.raises(ValueError, match="row 0: expected either 'question' or 'questions', found neither"):
        load_rows(tmp_path / "d", columns={"media": "clip", "answer": "label"})


def test_shards_convert_to_a_manifest_beside_their_files(manifest, tmp_path):
    shard(manifest, tmp_path / "train", clips_per_shard=2, progress=False, processes=1)
    result = convert(tmp_path / "train", tmp_path / "again.csv")
    assert result.files_written == 5
    rows = get_task("jsonl").load(tmp_path / "again.csv")
    assert described(rows) == described(get_task("jsonl").load(manifest))
    assert io.BytesIO(rows[0].media.read_bytes()).read(4)


def test_an_output_that_exists_or_has_no_known_suffix_is_refused(manifest, tmp_path, capsys):
    assert main(["data", "convert", str(manifest), "-o", str(tmp_path / "x.xml")]) == 2
    assert "ends in .jsonl, .csv, .tsv, .json" in capsys.readouterr().err
    (tmp_path / "x.csv").write_text("mine")
    assert main(["data", "convert", str(manifest), "-o", str(tmp_path / "x.csv")]) == 2
    assert (tmp_path / "x.csv").read_text() == "mine"
