"""Tar shards: whole or absent, read back as the manifest they were made of, also by other programs."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from clips import write_clip

from mirasol.cli import main
from mirasol.data import shard as sharding
from mirasol.data.shard import index_folder, shard
from mirasol.media import read_clip
from mirasol.tasks import get_task
from mirasol.tasks.tars import Damaged, index_name
from tests.data.conftest import LINES
from tests.waiting import wait_for


@pytest.fixture
def shards(manifest, tmp_path):
    shard(manifest, tmp_path / "train", clips_per_shard=2, progress=False, processes=1)
    return tmp_path


def described(rows):
    return sorted((row.id, row.segment, row.crop, row.questions) for row in rows)


def test_shards_read_back_as_the_manifest(manifest, shards):
    rows, originals = get_task("shards").load(shards, "train"), get_task("jsonl").load(manifest)
    assert described(rows) == described(originals)
    files = {row.id: row.media for row in originals}
    for row in rows:
        assert row.media.read_bytes() == files[row.id].read_bytes()
        assert read_clip(row.media).duration == read_clip(files[row.id]).duration
    assert len({row.media.archive for row in rows}) == 3
    archives = [row.media.archive for row in rows]
    assert archives == sorted(archives), "clips of a shard come one after another"


def test_other_programs_read_the_same_tars(manifest, shards, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    tars = sorted(str(path) for path in (shards / "train").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    texts = [json.loads(sample["json"]) for sample in samples]
    assert len(samples) == 5 and {"a dog", "ann"} <= {answer for text in texts for answer in text["answers"]}
    assert all(len(sample.get("mp4", b"") + sample.get("wav", b"")) > 1000 for sample in samples)

    datasets = pytest.importorskip("datasets")
    only = manifest.with_name("pictures.jsonl")  # it wants files of one suffix
    only.write_text("".join(f"{json.dumps(line)}\n" for line in LINES if line["media"].endswith("mp4")))
    shard(only, tmp_path / "only", clips_per_shard=2, progress=False, processes=1)
    tars = sorted(map(str, (tmp_path / "only").glob("*.tar")))
    loaded = datasets.load_dataset("webdataset", data_files={"train": tars}, split="train", streaming=True)
    found = list(loaded.decode(False))
    assert len(found) == 4 and all(len(sample["mp4"]["bytes"]) > 1000 for sample in found)
    assert sorted(answer for sample in found for answer in sample["json"]["answers"]) == sorted(
        answer for line in LINES if line["media"].endswith("mp4") for answer in [line["answer"]]
    )


def test_the_same_command_resumes_and_writes_no_shard_twice(manifest, shards, monkeypatch):
    folder = shards / "train"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "shards.json").unlink()
    (folder / index_name("shard-00001.tar")).unlink()
    (folder / "shard-00001.tar").write_bytes(b"half")
    with pytest.raises(ValueError, match="Run the same mirasol data shard command again"):
        get_task("shards").load(shards, "train")
    written = []
    original = sharding.write_shard
    monkeypatch.setattr(sharding, "write_shard", lambda *given: written.append(given[2]) or original(*given))
    shard(manifest, folder, clips_per_shard=2, progress=False, processes=1)
    assert written == ["shard-00001.tar"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_processes_write_the_same_shards(manifest, shards, tmp_path):
    shard(manifest, tmp_path / "two", clips_per_shard=2, progress=False, processes=2)
    for path in (tmp_path / "two").iterdir():
        assert path.read_bytes() == (shards / "train" / path.name).read_bytes()


def test_shards_of_something_else_are_not_mixed_in(manifest, shards):
    with pytest.raises(ValueError, match="a file or an option changed|an option changed"):
        shard(manifest, shards / "train", clips_per_shard=3, progress=False)


def test_a_missing_file_is_left_out_and_said(manifest, tmp_path, capsys):
    other = tmp_path / "m.jsonl"
    lines = [{**line, "media": str(manifest.parent / line["media"])} for line in LINES[:2]]
    lines.append({"media": "gone.mp4", "question": "q", "answer": "a"})
    other.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["data", "shard", str(other), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "2 files with 3 questions in 1 shards" in printed.out and "gone.mp4" in printed.out
    assert len(get_task("shards").load(tmp_path / "out")) == 2
    listed = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert list(listed["left_out"]) == [str(tmp_path / "gone.mp4")]


def test_a_tar_that_is_cut_off_or_younger_than_its_index_is_refused_with_both_values(shards):
    tar = shards / "train" / "shard-00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-600])
    with pytest.raises(ValueError, match=rf"have the {len(whole)} bytes .* found {len(whole) - 600}: it is cut off"):
        get_task("shards").load(shards, "train")
    tar.write_bytes(whole + bytes(10_240))
    with pytest.raises(ValueError, match=rf"found {len(whole) + 10_240}: it is younger than its index. .*data index"):
        get_task("shards").load(shards, "train")
    index_folder(shards / "train", progress=False)
    assert len(get_task("shards").load(shards, "train")) == 6


def test_a_younger_tar_of_the_same_size_is_refused_unless_it_holds_the_same_files(shards):
    tar = shards / "train" / "shard-00000.tar"
    later = time.time() + 10
    os.utime(tar, (later, later))  # a copy
    assert len(get_task("shards").load(shards, "train")) == 6
    changed = bytearray(tar.read_bytes())
    changed[4] += 1  # in the name of the first file
    changed[148:156] = b"%06o\0 " % (sum(changed[:148]) + sum(changed[156:512]) + 8 * 32)
    tar.write_bytes(changed)
    os.utime(tar, (later, later))
    with pytest.raises(ValueError, match="as its index of .* states, found .* in the tar of "):
        get_task("shards").load(shards, "train")


def test_bytes_that_changed_are_found_out_when_they_are_read(shards):
    row = get_task("shards").load(shards, "train")[0]
    archive = shards / "train" / "shard-00000.tar"
    data = bytearray(archive.read_bytes())
    data[row.media.offset + 10] ^= 1
    archive.write_bytes(data)
    with pytest.raises(Damaged, match="Copy the tar again"):
        row.media.read_bytes()


def test_encoding_anew_keeps_times_and_sound(tmp_path):
    write_clip(tmp_path / "a.mp4", seconds=1.2, at=(0.5, 1.0), size=(640, 360), gop=250)
    (tmp_path / "m.jsonl").write_text('{"media": "a.mp4", "question": "q", "answer": "a"}\n')
    result = shard(tmp_path / "m.jsonl", tmp_path / "out", height=64, gop=5, progress=False)
    assert result.encoded == 1
    (row,) = get_task("shards").load(tmp_path / "out")
    old, new = read_clip(tmp_path / "a.mp4"), read_clip(row.media)
    assert new.frames.shape[1:3] == (64, 114) and new.info.audio_sampling_rate == 16_000
    assert abs(new.frame_times - old.frame_times).max() < 1e-4
    loud = [abs(clip.waveform).argmax() / 16_000 for clip in (old, new)]
    assert abs(loud[0] - loud[1]) < 0.06
    import av

    with av.open(row.media.open()) as container:
        keyframes = [packet.is_keyframe for packet in container.demux(container.streams.video[0]) if packet.size]
    assert all(any(keyframes[start : start + 5]) for start in range(0, len(keyframes), 5))


def test_a_sound_with_a_gap_is_kept_as_it_is(tmp_path):
    """Encoding would fill the gap with silence, and silence is sound."""
    write_clip(tmp_path / "a.mkv", seconds=1.2, sound_gap=(0.4, 0.8))
    (tmp_path / "m.jsonl").write_text('{"media": "a.mkv", "question": "q", "answer": "a"}\n')
    assert shard(tmp_path / "m.jsonl", tmp_path / "out", height=24, gop=5, progress=False).encoded == 0
    (row,) = get_task("shards").load(tmp_path / "out")
    assert row.media.read_bytes() == (tmp_path / "a.mkv").read_bytes()


def test_tars_of_another_program_are_indexed(tmp_path):
    write_clip(tmp_path / "a.mp4", seconds=0.4)
    (tmp_path / "a.json").write_text('{"question": "what?", "answer": "beeps"}')
    (tmp_path / "b.json").write_text('{"question": "what?", "answer": "none"}')
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "x-000.tar", "w") as tar:
        for name in ("a.mp4", "a.json", "b.json"):
            tar.add(tmp_path / name, arcname=f"deep/{name}")
    result = index_folder(tmp_path / "tars", progress=False)
    assert result.files == 1 and result.left_out == {"deep/b": "no media file"}
    (row,) = get_task("shards").load(tmp_path / "tars")
    assert row.questions[0].answer == "beeps" and row.media.read_bytes() == (tmp_path / "a.mp4").read_bytes()


@pytest.mark.slow
def test_kills_while_writing_leave_whole_shards_and_the_same_command_finishes(manifest, shards, tmp_path):
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "mirasol.cli", "data", "shard", str(manifest), "-o", str(folder)]
    command += ["--clips-per-shard", "2", "--processes", "1"]
    for wait in (0.1, 0.6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda process=process: any(folder.glob("*.partial")) or process.poll() is not None)
        time.sleep(wait / 100)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for tar in folder.glob("*.index.jsonl"):
            assert tar.read_bytes() == (shards / "train" / tar.name).read_bytes()
    assert subprocess.run(command, capture_output=True).returncode == 0
    for path in folder.iterdir():
        assert path.suffix == ".partial" or path.read_bytes() == (shards / "train" / path.name).read_bytes()


def index_tar(folder, members, name="a.tar", form=tarfile.GNU_FORMAT):
    """A tar of another program with these (name, bytes), indexed."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, "w", format=form) as tar:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return index_folder(folder, progress=False)


def text(answer="x", **keys):
    return json.dumps({"question": "what?", "answer": answer, **keys}).encode()


@pytest.mark.parametrize("name", ["k" * 120, "a/" * 50 + "b", "Hörspiel 漢", "./a"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_younger_tar_with_names_that_no_header_holds_is_read(tmp_path, name, form):
    index_tar(tmp_path, [(f"{name}.wav", b"sound"), (f"{name}.json", text())], form=form)
    later = time.time() + 60
    os.utime(tmp_path / "a.tar", (later, later))
    (row,) = get_task("shards").load(tmp_path, "train")
    assert row.media.read_bytes() == b"sound"


def test_the_index_of_another_tar_is_refused_before_training_even_if_it_is_younger(shards):
    folder = shards / "train"
    first, second = (folder / f"shard-0000{number}.tar" for number in (0, 1))
    size = max(first.stat().st_size, second.stat().st_size)
    for tar in (first, second):  # tars are whole blocks, and those of equal clips are of one size
        os.truncate(tar, size)
    index_folder(folder, progress=False)
    (folder / index_name(first.name)).write_text((folder / index_name(second.name)).read_text())
    with pytest.raises(ValueError, match="Expected .*shard-00000.tar to hold 000000002.* found 000000000"):
        get_task("shards").load(shards, "train")


def without(key):
    return lambda line: {name: value for name, value in line.items() if name != key}


@pytest.mark.parametrize("key", ["format", "clips", "tar_bytes", "offset", "size", "crc32", "name", "key", "lines"])
def test_an_index_without_one_of_its_keys_is_refused(shards, key):
    index = shards / "train" / "shard-00000.index.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    index.write_text("".join(f"{json.dumps(without(key)(line))}\n" for line in lines))
    with pytest.raises(ValueError, match=f"Expected an index of a tar in .*{key}.*mirasol data index"):
        get_task("shards").load(shards, "train")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "<html></html>"])
def test_a_list_of_shards_that_is_none_is_refused(shards, content):
    (shards / "train" / "shards.json").write_text(content)
    with pytest.raises(ValueError, match="Expected in .*shards.json the list of shards .*mirasol data index"):
        get_task("shards").load(shards, "train")


@pytest.mark.parametrize("content", [b"[1]", b"3", b'"text"', b'{"lines": "5"}', b'{"lines": "[5]"}'])
def test_a_text_that_is_no_line_of_a_manifest_is_refused_by_its_name(tmp_path, content):
    with pytest.raises(ValueError, match="Expected a line of a manifest, .*a.tar/k.json"):
        index_tar(tmp_path, [("k.wav", b"sound"), ("k.json", content)])


def test_of_several_files_of_one_key_the_first_is_taken_and_the_others_are_said(tmp_path):
    members = [("k.wav", b"1"), ("k.json", text("1")), ("k.flac", b"2"), ("k.wav", b"3"), ("k.json", text("3"))]
    with pytest.warns(UserWarning, match="could not be written into the shards"):
        result = index_tar(tmp_path, members)
    assert set(result.left_out) == {"k.flac", "k.wav", "k.json"}
    (row,) = get_task("shards").load(tmp_path, "train")
    assert (row.media.read_bytes(), row.questions[0].answer) == (b"1", "1")


def test_attributes_of_macos_are_no_clips_and_members_in_any_order_are(tmp_path):
    own, lines = b"attributes", text("1")
    members = [("./._k.wav", own), ("./k.wav", b"1"), ("./n.wav", b"2"), ("./._k.json", own), ("./k.json", lines),
               ("./.DS_Store", own), ("./n.json", text("2"))]  # fmt: skip
    assert index_tar(tmp_path, members).left_out == {}
    rows = get_task("shards").load(tmp_path, "train")
    assert [(row.media.read_bytes(), row.questions[0].answer) for row in rows] == [(b"1", "1"), (b"2", "2")]


def test_a_compressed_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("k.wav"))
    with pytest.raises(ValueError, match="Expected a whole tar of clips in .*a.tar.* or decompress it"):
        index_folder(tmp_path, progress=False)


def test_clips_of_two_tars_that_count_from_0_on_have_ids_of_their_own(tmp_path):
    for number in range(2):
        index_tar(tmp_path, [("0.wav", b"%d" % number), ("0.json", text(str(number)))], f"{number}.tar")
    rows = get_task("shards").load(tmp_path, "train")
    assert len({row.id for row in rows}) == len({row.questions[0].id for row in rows}) == 2
    for number in range(2):
        index_tar(tmp_path, [("0.wav", b"%d" % number), ("0.json", text(str(number), id="mine"))], f"{number}.tar")
    with pytest.raises(ValueError, match="expected an id of its own, found 'mine' as in .*0.tar"):
        get_task("shards").load(tmp_path, "train")
