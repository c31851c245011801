"""Films of GRID sentences: one split, always the same, answers by the labels; joined clips equal a joined file."""

from collections import Counter
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from mirasol.chunks import MirasolProcessor
from mirasol.data import ClipCache
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.loader import ShownClips
from mirasol.tasks import Absent, get_task, grid_films, single_rows
from mirasol.tasks.grid import DURATION

COLOR, LETTER = 1, 3


@pytest.fixture(scope="module")
def films(grid_root):
    return get_task("grid_films").load(grid_root, "test_3-7")


def moment(question) -> float:
    return float(question.text.removesuffix(" seconds?").split()[-1])


def test_films_are_of_one_split_and_use_every_sentence_of_it(grid_root):
    for name in ("train", "val", "test"):
        own = {row.id for row in get_task("grid").load(grid_root, name)}
        rows = get_task("grid_films").load(grid_root, f"{name}_1-10")
        assert {part.id for row in rows for part in row.parts} == own
        assert {len(row.parts) for row in rows} == set(range(1, 11))


def test_films_are_the_same_every_time_and_differ_by_seed_and_split(grid_root, films):
    assert get_task("grid_films").load(grid_root, "test_3-7") == films
    sentences = get_task("grid").load(grid_root, "test")
    first = grid_films.films(sentences, 4, (3, 7), "test_3-7")
    assert first == films[:4], "a film depends on how many others there are"
    assert grid_films.films(sentences, 4, (3, 7), "test_3-7", seed=1)[0].sentences != first[0].sentences
    assert get_task("grid_films").load(grid_root, "test_7")[0].sentences[:3] != first[0].sentences[:3]


def test_answers_are_those_of_the_labels_by_a_plain_loop(films):
    for row in films:
        words, colors, letters = [], [], []
        for number, part in enumerate(row.parts):
            words += [
                (start + number * DURATION, end + number * DURATION, word)
                for word, (start, end) in zip(part.words, part.word_times, strict=True)
            ]
            colors.append(((words[-6][0], words[-1][1]), part.words[COLOR]))
            letters.append(part.words[LETTER])
        for question in row.questions:
            name, answer = question.text.split()[2:4], question.answer
            if question.kind == "said_at":
                assert [word for start, end, word in words if start <= moment(question) < end] == [answer]
            elif question.kind == "color_at":
                near = [color for (start, end), color in colors if start - 0.06 <= moment(question) <= end + 0.06]
                assert near == [answer]
            elif question.kind == "has_letter":
                assert answer == ("yes" if question.text.split()[3] in letters else "no")
            elif question.kind == "count_color":
                assert int(answer) == [color for _, color in colors].count(question.text.split()[3])
            else:
                assert answer == colors[{"first": 0, "last": -1}[question.kind.split("_")[0]]][1], name


def test_yes_and_no_are_asked_equally_often_and_every_kind_in_every_film(films):
    answers = Counter(q.answer for row in films for q in row.questions if q.kind == "has_letter")
    assert answers["yes"] == answers["no"] == len(films)
    counts = [Counter(q.kind for q in row.questions) for row in films]
    assert all(count == counts[0] and len(count) == 6 for count in counts)


def test_training_asks_anew_at_the_seconds_after_augmentation(films):
    row, task = films[0], get_task("grid_films")
    later = [(start + 100, end + 100) for start, end in row.word_times]
    first = task.sample_questions(row, np.random.default_rng(0), later)
    assert first != task.sample_questions(row, np.random.default_rng(1), later)
    asked = [moment(question) for question in first if question.kind.endswith("_at")]
    assert asked and min(asked) > 100


@pytest.mark.parametrize("split", ["test_0", "test_9-3", "test_x", "test_1001", "dev_10"])
def test_a_split_that_is_none_is_refused_with_the_form_that_is(grid_root, split):
    with pytest.raises(Absent, match=r"test_40|dev_10"):
        get_task("grid_films").load(grid_root, split)


def write_joined(path, row) -> None:
    """The parts of a film in one file without loss: their own YUV pictures and their decoded sound."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("ffv1", rate=25)
        sound = output.add_stream("pcm_f32le", rate=16_000, layout="mono")
        for number, part in enumerate(row.parts):
            with av.open(str(part.media)) as source:
                pictures = list(source.decode(video=0))
            with av.open(str(part.media)) as source:
                samples = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in source.decode(audio=0)])
                rate = source.streams.audio[0].rate
            assert rate == 16_000
            for index, picture in enumerate(pictures[: round(DURATION * 25)]):
                if not number and not index:
                    video.width, video.height, video.pix_fmt = picture.width, picture.height, picture.format.name
                picture.pts, picture.time_base = number * round(DURATION * 25) + index, Fraction(1, 25)
                picture.pict_type = 0
                output.mux(video.encode(picture))
            held = np.zeros((1, round(DURATION * 16_000)), np.float32)
            length = min(len(samples), held.shape[1])
            held[0, :length] = samples[:length]
            frame = av.AudioFrame.from_ndarray(held, format="flt", layout="mono")
            frame.rate, frame.pts, frame.time_base = 16_000, number * held.shape[1], Fraction(1, 16_000)
            output.mux(sound.encode(frame))
        for stream in (video, sound):
            output.mux(stream.encode(None))


def test_joined_chunks_equal_those_of_a_file_joined_without_loss(grid_root, untrained, tmp_path):
    (row,) = grid_films.films(get_task("grid").load(grid_root, "test"), 1, (2, 2), "test_2")
    processor = MirasolProcessor.from_pretrained(untrained)
    write_joined(tmp_path / "film.mkv", row)
    options = {"sampling": "dense"}
    real = processor.chunk_clip(processor.read_clip(tmp_path / "film.mkv", **options), **options)
    cache = ClipCache.build(
        [row], tmp_path / "cache", processor.image_processor, frames_per_second=25.0, progress=False
    )
    joined = processor.chunk_clip(cache.clip_of(row), do_resize=False, **options)
    read = ShownClips([row], processor, [Condition()])[0].shown["both"]
    processor.max_chunks = len(joined["chunk_times"])
    evaluated = ShownClips([row], processor, [Condition()])[0].shown["both"].media
    assert len(read.media["chunk_times"]) == 10 and read.seconds_covered == pytest.approx(len(row.parts) * DURATION)
    for name, value in joined.items():
        assert torch.equal(value, real[name]), name
        assert torch.equal(value, evaluated[name]), name


def test_films_of_a_split_share_the_cache_of_their_sentences(grid_root, tmp_path, monkeypatch):
    task = get_task("grid_films")
    rows = [row for length in (2, 3) for row in task.load(grid_root, f"test_{length}")[:1]]
    assert len(single_rows(rows)) == len({part.id for row in rows for part in row.parts})
    all_films = task.load(grid_root, "test_4"), task.load(grid_root, "test_9")
    ids = [{row.id for row in single_rows(rows)} for rows in all_films]
    assert ids[0] == ids[1] == {row.id for row in get_task("grid").load(grid_root, "test")}
