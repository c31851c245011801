"""Loading ahead: each row is shown as its condition and its own square say."""

import dataclasses
import pickle

import torch

from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.loader import ShownClips, load_ahead
from mirasol.tasks import get_task


def test_the_rows_square_is_what_is_shown_of_its_clip(grid_root, loaded):
    _, processor = loaded
    rows = [
        dataclasses.replace(row, crop=crop)
        for row, crop in zip(get_task("grid").load(grid_root, "test"), (None, (0.3, 0.2, 0.9)), strict=False)
    ]
    for row, loaded in zip(rows, load_ahead(ShownClips(rows, processor, [Condition()]), [0, 1], 0), strict=True):
        whole = processor.read_clip(row.media, do_resize=False)
        expected = processor.chunk_clip(dataclasses.replace(whole, crop=row.crop))
        assert torch.equal(loaded.shown["both"].media["pixel_values_videos"], expected["pixel_values_videos"])
    assert loaded.error is None


def test_the_clips_can_be_sent_to_a_spawned_worker(grid_root, loaded):
    clips = ShownClips(get_task("grid").load(grid_root, "test")[:2], loaded[1], [Condition()])
    sent = pickle.loads(pickle.dumps(clips))
    assert torch.equal(*(of[1].shown["both"].media["pixel_values_videos"] for of in (clips, sent)))
