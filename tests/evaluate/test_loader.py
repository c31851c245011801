"""Loading ahead: each row is shown as its condition and its own square say."""

import dataclasses
import pickle

import pytest
import torch

from mirasol.data.ahead import load_ahead
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.loader import ShownClips
from mirasol.tasks import get_task


@pytest.mark.parametrize("others", [(), (Condition("silent"),)])
def test_the_rows_square_is_what_is_shown_of_its_clip(grid_root, loaded, others):
    _, processor = loaded
    rows = [
        dataclasses.replace(row, crop=crop)
        for row, crop in zip(get_task("grid").load(grid_root, "test"), (None, (0.3, 0.2, 0.9)), strict=False)
    ]
    clips = ShownClips(rows, processor, [Condition(), *others])
    for row, loaded in zip(rows, load_ahead(clips, [0, 1], 0), strict=True):
        whole = processor.read_clip(row.media, do_resize=False)
        expected = processor.chunk_clip(dataclasses.replace(whole, crop=row.crop))
        assert torch.equal(loaded.shown["both"].media["pixel_values_videos"], expected["pixel_values_videos"])
    assert loaded.error is None


def test_clips_come_in_the_order_asked_from_workers_too(grid_root, loaded):
    clips = ShownClips(get_task("grid").load(grid_root, "test")[:2], loaded[1], [Condition()])
    here, there = (list(load_ahead(clips, [1, 0], workers)) for workers in (0, 1))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(*(item.shown["both"].media["input_features"] for item in (one, other)))
    first, second = (item.shown["both"].media["input_features"] for item in here)
    assert not torch.equal(first, second)


def test_the_clips_can_be_sent_to_a_spawned_worker(grid_root, loaded):
    clips = ShownClips(get_task("grid").load(grid_root, "test")[:2], loaded[1], [Condition()])
    sent = pickle.loads(pickle.dumps(clips))
    assert torch.equal(*(of[1].shown["both"].media["pixel_values_videos"] for of in (clips, sent)))


def test_silence_is_warned_of_where_it_was_not_asked_for(grid_root, loaded):
    rows = get_task("grid").load(grid_root, "test")[:1]
    asked, made = ShownClips(rows, loaded[1], [Condition("silent")])[0], Condition("silent").read(rows[0])
    assert asked.shown["silent"].is_silent and not asked.warnings
    found = ShownClips(rows, loaded[1], [Condition()], read=lambda *_: made)[0]
    assert found.shown["both"].is_silent and "silent" in found.warnings[0]
