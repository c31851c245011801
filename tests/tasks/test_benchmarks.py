"""The benchmarks' loaders on tiny files of our own: what they make of rows, and what they refuse."""

import json
import re

import numpy as np
import pytest

from mirasol.tasks import TASKS, Row, get_task
from mirasol.tasks.annotations import with_mark
from mirasol.tasks.registry import BENCHMARKS

pytestmark = pytest.mark.filterwarnings("ignore:.*the published .* split:UserWarning")

MSRVTT = {"id": 7, "question": "What is drawn?", "answer": "cat", "category_id": 1, "video_id": 12}
NEXT_MC = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
NEXT_OE = "video,frame_count,width,height,question,answer,qid,type"
EPIC = "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,description,class,class_id"
EPIC_ROW = "P01_11_0,P01,P01_11,00:00:02.069,01:01:02.5,clang / clatter,metal / wood collision,10"
CLIP = "-0_abcdefgh"  # eleven signs, as YouTube's ids have


def write(root, name: str, content) -> None:
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content), newline="")


@pytest.fixture
def whole(tmp_path):
    """One well-formed row for every benchmark, in one folder each."""
    for name in BENCHMARKS:
        (tmp_path / name).mkdir()
    write(
        tmp_path / "msrvtt_qa", "test_qa.json", [MSRVTT, MSRVTT | {"id": 8, "question": "is it big", "answer": "no"}]
    )
    write(tmp_path / "activitynet_qa", "test_q.json", [{"video_name": "V", "question": "who", "question_id": "v_V_1"}])
    write(tmp_path / "activitynet_qa", "test_a.json", [{"answer": "ann", "type": 8, "question_id": "v_V_1"}])
    write(tmp_path / "nextqa_mc", "test.csv", f"{NEXT_MC}\r\n11,9,4,3,how many,1,0,DC,one,two,six,ten,none\r\n")
    write(tmp_path / "nextqa_mc", "map_vid_vidorID.json", {"11": "0001/11"})
    write(tmp_path / "nextqa_oe", "test.csv", f"{NEXT_OE}\n11,9,4,3,what,a dog,0,DO\n")
    write(tmp_path / "nextqa_oe", "add_reference_answer_test.json", {"11": {"0": "puppy"}})
    write(tmp_path / "vggsound", "test.csv", f'{CLIP}_000030.mp4,"dog, cat"\r\n')
    write(tmp_path / "vggsound", "stat.csv", '"dog, cat",9,animals\r\nrain,8,nature\r\n')
    write(tmp_path / "epic_sounds", "EPIC_Sounds_validation.csv", f"{EPIC}\n{EPIC_ROW}\n")
    write(tmp_path / "kinetics_sounds", "my_test.txt", f"{CLIP}_7,10,0\r\n")
    write(tmp_path / "kinetics_sounds", "classes.csv", "0,playing organ\n")
    return tmp_path


def load(whole, name: str, classes=None) -> list[Row]:
    task = get_task(name, classes)
    return task.load(whole / name, task.reported_split)


@pytest.mark.parametrize(
    ("name", "text", "answer", "kind", "options"),
    [
        ("msrvtt_qa", "What is drawn?", "cat", "what", ()),
        ("activitynet_qa", "who?", "ann", "other", ()),
        ("nextqa_mc", "how many? choose: one; two; six; ten; none", "two", "DC", ("one", "two", "six", "ten", "none")),
        ("nextqa_oe", "what?", "a dog", "DO", ()),
        ("vggsound", "which sound event is it?", "dog, cat", "class", ("dog, cat", "rain")),
        ("epic_sounds", "which sound is made?", "metal / wood collision", "class", ("metal / wood collision",)),
        ("kinetics_sounds", "which action is it?", "playing organ", "class", ("playing organ",)),
    ],
)
def test_a_row_asks_what_the_benchmark_asks(whole, name, text, answer, kind, options):
    question = load(whole, name)[0].questions[0]
    assert (question.text, question.answer, question.kind, question.options) == (text, answer, kind, options)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("msrvtt_qa", "TestVideo/video12.mp4"),
        ("activitynet_qa", "val/v_V.mkv"),
        ("nextqa_mc", "0001/11.mp4"),
        ("nextqa_oe", "NExTVideo/11.mp4"),
        ("vggsound", f"{CLIP}_000030.mp4"),
        ("epic_sounds", "P01/P01_11.MP4"),
        ("kinetics_sounds", f"playing organ/{CLIP}_000007_000017.mp4"),
    ],
)
def test_a_row_knows_its_clip_present_or_not(whole, name, file):
    (row, *_) = load(whole, name)
    assert row.media.parent == whole / name / "videos" and not row.media.exists()
    path = whole / name / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    assert load(whole, name)[0].media == path


def test_questions_of_one_clip_are_one_row(whole):
    (row,) = load(whole, "msrvtt_qa")
    assert row.id == "video12"
    assert [(q.id, q.text, q.kind) for q in row.questions] == [
        ("7", "What is drawn?", "what"),
        ("8", "is it big?", "other"),
    ]


def test_segments_are_seconds_of_the_video(whole):
    assert load(whole, "epic_sounds")[0].segment == (2.069, 3662.5)


def test_second_references_are_kept(whole):
    assert load(whole, "nextqa_oe")[0].questions[0].references == ("puppy",)
    (whole / "nextqa_oe" / "add_reference_answer_test.json").unlink()
    with pytest.warns(UserWarning, match="lower than the official one"):
        assert load(whole, "nextqa_oe")[0].questions[0].references == ()


@pytest.mark.parametrize("written", ["what is it", "what is it?", " what is it ?", "what is it??", "what is it ? "])
def test_every_question_ends_in_one_mark(written):
    assert with_mark(written) == "what is it?"


def test_second_references_are_those_of_test_alone(whole):
    write(whole / "nextqa_oe", "val.csv", f"{NEXT_OE}\n11,9,4,3,what,a dog,0,DO\n")
    (row,) = get_task("nextqa_oe").load(whole / "nextqa_oe", "val")
    assert row.questions[0].references == ()


def test_training_shuffles_the_answers_to_choose_from(whole):
    (row,) = load(whole, "nextqa_mc")
    task, rng = get_task("nextqa_mc"), np.random.default_rng(0)
    asked = [task.sample_questions(row, rng, (), 1.0)[0] for _ in range(20)]
    assert len({question.text for question in asked}) > 10
    for question in asked:
        assert question.text == f"how many? choose: {'; '.join(question.options)}"
        assert sorted(question.options) == sorted(row.questions[0].options) and question.answer == "two"


def test_an_answer_given_as_text_is_read_too(whole):
    write(whole / "nextqa_mc", "test.csv", f"{NEXT_MC}\n11,9,4,3,how many,ten,0,DC,one,two,six,ten,none\n")
    assert load(whole, "nextqa_mc")[0].questions[0].answer == "ten"


def test_the_list_of_both_vggsound_splits_is_read_by_split(whole):
    (whole / "vggsound" / "test.csv").unlink()
    write(whole / "vggsound", "vggsound.csv", f'{CLIP},30,"dog, cat",test\nabcdefghijk,0,rain,train\n')
    (row,) = load(whole, "vggsound")
    assert (row.id, row.questions[0].answer) == (f"{CLIP}_000030", "dog, cat")


def test_gzipped_files_and_a_byte_order_mark_are_read(whole):
    import gzip

    path = whole / "nextqa_oe" / "test.csv"
    (whole / "nextqa_oe" / "test.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    path.unlink()
    assert load(whole, "nextqa_oe")[0].questions[0].answer == "a dog"


def test_a_damaged_download_is_refused(whole):
    import gzip

    (whole / "nextqa_oe" / "test.csv").unlink()
    packed = bytearray(gzip.compress(NEXT_OE.encode() * 9))
    packed[20] ^= 255
    (whole / "nextqa_oe" / "test.csv.gz").write_bytes(packed)
    with pytest.raises(ValueError, match=r"Expected UTF-8 text in .*test\.csv\.gz, found other bytes"):
        load(whole, "nextqa_oe")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("msrvtt_qa", "test_qa.json", [MSRVTT, MSRVTT], "entry 2: expected an id of its own, found '7' as in"),
        ("msrvtt_qa", "test_qa.json", [MSRVTT | {"answer": " "}], "entry 1: expected text, found an empty answer"),
        ("msrvtt_qa", "test_qa.json", [MSRVTT | {"answer": "\t"}], "entry 1: expected text, found an empty answer"),
        ("msrvtt_qa", "test_qa.json", "[" * 100_000, "Expected JSON in .*found text that is not"),
        (
            "nextqa_oe", "test.csv", f'{NEXT_OE}\n1,9,4,3,"what {"x" * 140_000}\n',
            r"test\.csv:2: expected a row of a table",
        ),
        ("epic_sounds", "EPIC_Sounds_validation.csv", f"{EPIC}\n{EPIC_ROW.replace('metal / wood collision', ' ')}\n",
         r"\.csv:2: expected a clip and its class, found an empty class"),
        ("msrvtt_qa", "test_qa.json", [MSRVTT, {"id": 1}], "entry 2: .* found no valid question, answer, video_id"),
        ("msrvtt_qa", "test_qa.json", {"7": MSRVTT}, "Expected a JSON list in .*, found dict"),
        ("msrvtt_qa", "test_qa.json", "[{]", r"Expected JSON in .*line 1 column 3"),
        ("activitynet_qa", "test_a.json", [], "entry 1: expected an answer in test_a.json, found none for 'v_V_1'"),
        (
            "activitynet_qa", "test_a.json", [{"answer": "ann", "type": 9, "question_id": "v_V_1"}],
            "expected a type from 0 to 8, found 9",
        ),
        ("nextqa_mc", "test.csv", f"{NEXT_MC}\n11,9,4,3,how,5,0,DC,a,b,c,d,e\n", r":2: expected an answer from 0"),
        ("nextqa_mc", "test.csv", f"{NEXT_MC}\n11,9,4,3,how,1,0,XX,a,b,c,d,e\n", r":2: expected a type out of CW, CH"),
        ("nextqa_mc", "test.csv", f"{NEXT_MC}\n11,9,4,3,how,1,0\n", r"test\.csv:2: expected 13 fields, found 7"),
        ("nextqa_mc", "test.csv", f"{NEXT_MC}\n11,9,4,3,,1,0,DC,a,b,c,d,e\n", r"test\.csv:2: .* found an empty text"),
        ("nextqa_oe", "test.csv", "video,question\n1,what\n", "found none called answer, qid, type"),
        ("nextqa_oe", "test.csv", f"{NEXT_OE}\n1,9,4,3,a,b,0,DO\n1,9,4,3,a,b,0,DO\n", ":3: expected an id of"),
        ("vggsound", "test.csv", f"{CLIP}.mp4,rain\n", r":1: expected a clip such as ID_000030\.mp4"),
        ("vggsound", "test.csv", f"{CLIP}_000030.mp4,dog\n", r":1: expected a class of .*stat\.csv, found 'dog'"),
        ("vggsound", "test.csv", f"{CLIP}_000030.mp4,dog, cat\n", r"test\.csv:1: expected 2 fields, found 3"),
        ("vggsound", "test.csv", "", "Expected at least one clip in"),
        ("epic_sounds", "EPIC_Sounds_validation.csv", f"{EPIC}\n{EPIC_ROW}\n{EPIC_ROW}\n", ":3: expected an id of"),
        (
            "epic_sounds", "EPIC_Sounds_validation.csv", f"{EPIC}\n{EPIC_ROW.replace('00:00:02.069', '02:00:00')}\n",
            r"\.csv:2: expected hh:mm:ss\.mmm to a later hh:mm:ss\.mmm, found 02:00:00 to 01:01:02\.5",
        ),
        (
            "epic_sounds", "EPIC_Sounds_validation.csv",
            f"{EPIC}\n{EPIC_ROW}\n{EPIC_ROW.replace('P01_11_0', 'P01_11_1').replace(',10', ',11')}\n",
            r"\.csv:3: expected class_id 10 for 'metal / wood collision' as before, found '11'",
        ),
        ("kinetics_sounds", "my_test.txt", "short_7,10,0\n", r"my_test\.txt:1: expected ID_start,seconds,number"),
        ("kinetics_sounds", "my_test.txt", f"{CLIP}_7,10,1\n", r"none for \[1\], and for \[0\] beyond them"),
        ("kinetics_sounds", "classes.csv", "playing organ\n", r"classes\.csv:1: expected 2 fields, found 1"),
        ("kinetics_sounds", "classes.csv", "0,organ\n0,harp\n", "csv:2: expected a number and a name of its own"),
    ],
)  # fmt: skip
def test_malformed_rows_are_refused_by_file_and_line(whole, name, file, content, message):
    write(whole / name, file, content)
    with pytest.raises(ValueError, match=message):
        load(whole, name)


def test_kinetics_sounds_needs_names_and_says_in_which_form(whole):
    (whole / "kinetics_sounds" / "classes.csv").unlink()
    with pytest.raises(ValueError, match=r'classes\.csv, found no such file.* --classes, one line "number,name"'):
        load(whole, "kinetics_sounds")
    write(whole, "mine.csv", "0,playing the organ\n")
    (row,) = load(whole, "kinetics_sounds", classes=whole / "mine.csv")
    assert row.questions[0].answer == "playing the organ"


def test_names_that_contradict_the_folders_are_refused(whole):
    write(whole / "kinetics_sounds", "classes.csv", "0,playing organ\n1,tap dancing\n")
    folder = whole / "kinetics_sounds" / "tap_dancing"
    folder.mkdir()
    (folder / f"{CLIP}_000007_000017.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 'playing organ' lie in 'tap dancing'"):
        load(whole, "kinetics_sounds")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_guide_sends_to_the_source_that_the_task_names_and_to_files_that_it_reads(repository, whole, name):
    guide = (repository / "docs/benchmarks.md").read_text().splitlines()
    (line,) = [line for line in guide if line.startswith(f"| `{name}`")]
    annotations = line.split("|")[2]
    source = re.search(r"https://[^\s,)]+", get_task(name).info.source)[0]
    assert f"({source})" in annotations
    named = set(re.findall(r"`([\w.]+\.(?:json|csv|txt))`", annotations))
    there = {path.name.removesuffix(".gz") for path in (whole / name).rglob("*") if path.is_file()}
    assert named and named & there, f"none of {named} is among the files that this task is tested with"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_split_that_does_not_exist_is_refused(whole, name):
    with pytest.raises(ValueError, match=r"Expected split .*, found 'tset'\. Did you mean "):
        get_task(name).load(whole / name, "tset")


def test_the_hidden_labels_of_epic_sounds_are_named(whole):
    with pytest.raises(ValueError, match="labels of the test segments are not published"):
        get_task("epic_sounds").load(whole / "epic_sounds", "test")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_annotations_say_where_to_get_them(tmp_path, name):
    split = "val" if name == "epic_sounds" else "test"
    with pytest.raises(
        ValueError, match=r"found no such file\. Get the annotations from https://.* put them there: ROOT/"
    ):
        get_task(name).load(tmp_path, split)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match="found 'vgg_sounds'. Did you mean 'vggsound'"):
        get_task("vgg_sounds")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_file_of_another_size_warns(whole, name):
    with pytest.warns(UserWarning, match="not comparable with published ones"):
        load(whole, name)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_what_the_programs_ask_for(name):
    task = get_task(name)
    assert task.name == name and (task.info is not None) == (name in BENCHMARKS)
    assert not {*task.headline_kinds} & {*task.time_kinds}
    assert task.info is None or task.reported_split in task.info.sizes


@pytest.mark.parametrize("name", sorted({*TASKS} - {"kinetics_sounds"}))
def test_a_class_list_is_refused_where_it_has_no_use(name):
    with pytest.raises(ValueError, match=f"Expected no class list for task '{name}', found --classes mine.csv"):
        get_task(name, classes="mine.csv")


def test_the_headline_leaves_out_seconds_and_what_the_task_leaves_out():
    grid, own = get_task("grid"), get_task("jsonl")
    assert grid.headline_among(["sentence", "digit", "when_digit", "color"]) == ["color", "digit"]
    assert grid.headline_among(["sentence", "when_digit"]) == ["sentence"]
    assert own.headline_among(["why", "when_digit"]) == ["why", "when_digit"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_recalled_numbers_of_the_paper_are_marked(name):
    info = get_task(name).info
    certain = {50.4, 51.1, 69.8, 66.4}
    for number in info.paper:
        assert number.is_certain == (number.percent in certain)
        assert ("about" in str(number) and "recalled" in str(number)) != number.is_certain
    assert all(
        word in str(info) for word in ("source", "licence", "prompt", "normalisation", "metric", "versions", "paper")
    )


@pytest.mark.parametrize("name", ["msrvtt_qa", "activitynet_qa", "nextqa_mc"])
def test_open_answers_score_by_kind(whole, name):
    task, (row, *_) = get_task(name), load(whole, name)
    scores = task.score(row.questions, [row.questions[0].answer, "wrong"][: len(row.questions)])
    assert scores["exact_match"] == 1 / len(row.questions) and scores[row.questions[0].kind] == 1


def test_class_names_score_by_class(whole):
    task, (row,) = get_task("epic_sounds"), load(whole, "epic_sounds")
    scores = task.score([*row.questions] * 2, ["metal / wood  collision", "metal"])
    assert scores == {"num_questions": 2, "exact_match": 0.5, "mean_class_accuracy": 0.5}
