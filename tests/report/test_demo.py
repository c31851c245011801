"""The report: made by an untrained model from end to end, in one file, with every text escaped."""

import re

import numpy as np
import pytest
from jinja2 import UndefinedError

from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.results import Prediction
from mirasol.report.demo import choose_stories, demo
from mirasol.report.labelled_sets import SETS
from mirasol.report.page import Answered, Story, render
from mirasol.tasks import get_task


@pytest.mark.slow
def test_demo_writes_one_file_that_needs_nothing_else(untrained, grid_root, tmp_path):
    result = demo(untrained, grid_root, tmp_path / "folder" / "report.html", max_clips=2)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["report.html"]
    page = (tmp_path / "folder" / "report.html").read_text()
    assert "http" not in page
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)"', page))
    for part in ("picture + sound", "sound only", "picture only", "follows the sound", "surprise", "chance", "✗"):
        assert part in page
    assert "no better than chance" in page
    assert result.report in str(result)
    assert len(result.try_next) == 3
    assert result.sets == {} and "spoken digits" not in page


@pytest.mark.slow
def test_the_shipped_checkpoint_is_also_asked_about_the_sets_beside_grid(grid_root, tmp_path):
    result = demo(None, grid_root, tmp_path / "report.html", max_clips=2)
    assert {name: found.clips for name, found in result.sets.items()} == dict.fromkeys(SETS, 2)
    page = (tmp_path / "report.html").read_text()
    for name, found in result.sets.items():
        assert f"{found.right} of clips right" in str(result)
        assert f'<td>{name}</td><td data-label="clips">2</td>' in page


def story(**changes) -> Story:
    times = np.stack([np.arange(3) * 0.5, np.arange(1, 4) * 0.5], axis=1)
    values = {
        "id": "a<b",
        "sentence": "bin blue",
        "duration": 1.4,
        "frames": [np.full((11, 13, 3), i, np.uint8) for i in range(3)],
        "mel": np.random.default_rng(0).standard_normal((140, 7)),
        "words": [("bin", 0.1, 0.3), ("blue", 0.3, 0.9)],
        "chunk_times": times,
        "surprise": np.array([np.nan, 0.5, 0.25]),
        "answers": [
            Answered(
                Prediction("c", "c/0", "color", "which <i>color</i>?", "blue", "red & co", False, 0.5, (0.3, 0.9)),
                np.array([0.1, 0.7, 0.2]),
                {},
            )
        ],
    }
    return Story(**{**values, **changes})


def test_texts_are_escaped_and_wrong_answers_show_the_truth():
    block = render("story.html", story=story())
    assert "which &lt;i&gt;color&lt;/i&gt;?" in block
    assert "red &amp; co" in block
    assert "a&lt;b" in block
    assert "✗" in block and "true: blue" in block and "0 of 1 answers right" in block


def test_nothing_is_drawn_beyond_the_end_of_the_clip():
    """The last chunk ends at 1.5 s, the clip at 1.4 s: its bar ends where the drawing does, less a gap."""
    page = render("story.html", story=story())
    ends = [
        float(x) + float(width) for x, width in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', page)
    ]
    assert len(ends) == 4 and max(ends) == pytest.approx(718)


def test_a_clip_without_surprise_or_loudness_still_has_a_page():
    assert "<svg" in render("story.html", story=story(surprise=np.full(3, np.nan), mel=np.zeros((140, 7))))


def test_the_table_shows_chance_and_dashes_for_what_was_not_measured():
    row = {"label": "both", "mean": Interval(0.5, 0.4, 0.6, 9), "kinds": {"color": 0.5, "sentence": None}}
    kinds = ["color", "sentence"]
    block = render("accuracy.html", accuracy=[row], kinds=kinds, chance={"color": 0.25}, mean_chance=0.25)
    assert "50.0 %" in block and "40.0 to 60.0" in block and "25" in block and "–" in block


def test_shares_are_written_out():
    assert ">70<" in render("swapped.html", swapped={"all": {"sound": 0.7, "picture": 0.2, "neither": 0.1}})


def test_a_page_with_a_hole_is_not_made():
    with pytest.raises(UndefinedError, match="num_clips"):
        render("demo.html", parameters="3")


def test_stories_go_from_the_fewest_mistakes_to_the_most(grid_root):
    rows = get_task("grid").load(grid_root, "test")[:5]
    found = [
        Prediction(row.id, f"{row.id}/{i}", "color", "?", "red", "red", i >= mistakes, 1.0)
        for row, mistakes in zip(rows, (2, 0, 4, 1, 3), strict=True)
        for i in range(4)
    ]
    assert choose_stories(rows, found, 3) == [rows[1], rows[0], rows[2]]
