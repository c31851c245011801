"""Seconds to chunks: literal tables of plans and of frame placement."""

import numpy as np
import pytest

from mirasol.chunks import ChunkPlan, TimeGrid
from mirasol.chunks.time_grid import TOLERANCE_SECONDS
from mirasol.media.frames import SAME_TIME_SECONDS

GRID = TimeGrid(25.0, 8, 32, max_chunks=16)  # 0.32 s chunks


def test_three_seconds_at_25_fps_are_ten_chunks_and_the_last_is_partial():
    plan = GRID.plan(3.0)
    index, real = plan.place_frames(np.arange(75) / 25)
    assert index.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9, 10, 11, 12, 13, 14, 15],
        [16, 17, 18, 19, 20, 21, 22, 23],
        [24, 25, 26, 27, 28, 29, 30, 31],
        [32, 33, 34, 35, 36, 37, 38, 39],
        [40, 41, 42, 43, 44, 45, 46, 47],
        [48, 49, 50, 51, 52, 53, 54, 55],
        [56, 57, 58, 59, 60, 61, 62, 63],
        [64, 65, 66, 67, 68, 69, 70, 71],
        [72, 73, 74, 74, 74, 74, 74, 74],
    ]
    assert real.all()
    assert plan.times[[0, 9]].round(9).tolist() == [[0.0, 0.32], [2.88, 3.2]]


@pytest.mark.parametrize(
    ("frame_rate", "first_chunk"),
    [
        (12.5, [0, 0, 1, 1, 2, 2, 3, 3]),  # slower than the grid: frames repeat
        (30.0, [0, 1, 2, 3, 4, 6, 7, 8]),  # faster: frames are left out
        (50.0, [0, 2, 4, 6, 8, 10, 12, 14]),
        (30_000 / 1_001, [0, 1, 2, 3, 4, 6, 7, 8]),  # frame 6 is 0.2 ms late, within the tolerance
    ],
)
def test_other_frame_rates_show_the_latest_frame(frame_rate, first_chunk):
    index, _ = GRID.plan(0.32).place_frames(np.arange(40) / frame_rate)
    assert index.tolist() == [first_chunk]


def test_default_grid_is_the_window_of_the_ast_family():
    grid = TimeGrid()
    assert (grid.seconds_per_chunk, grid.max_chunks * grid.seconds_per_chunk) == (0.64, 10.24)
    assert grid.max_chunks * grid.num_mel_frames_per_chunk == 1_024
    index, _ = grid.plan(0.64).place_frames(np.arange(16) / 25)
    assert index.tolist() == [[0, 2, 4, 6, 8, 10, 12, 14]]


def test_variable_frame_rate_by_hand():
    times = np.array([0.05, 0.06, 0.13, 0.33, 0.70, 0.71])
    index, real = GRID.plan(1.4).place_frames(times)
    #      slots:   .00 .04 .08 .12 .16 .20 .24 .28
    assert index[0].tolist() == [0, 0, 1, 1, 2, 2, 2, 2]  # before the first frame: the first
    #      slots:   .32 .36 .40 ...
    assert index[1].tolist() == [2, 3, 3, 3, 3, 3, 3, 3]  # 0.13 s is still shown at 0.32 s
    #      slots:   .64 .68 .72 ...
    assert index[2].tolist() == [3, 3, 5, 5, 5, 5, 5, 5]
    assert real.tolist() == [True, True, True, False, False]  # nothing new after 0.96 s


def test_video_that_starts_late_is_real_from_its_first_chunk_on():
    index, real = GRID.plan(1.28).place_frames(0.5 + np.arange(10) / 25)
    assert real.tolist() == [False, True, True, False]
    #      slots:   .32 .36 .40 .44 .48 .52 .56 .60
    assert index[1].tolist() == [0, 0, 0, 0, 0, 0, 1, 2]


def test_chunk_that_shows_an_old_frame_but_holds_none_is_not_real():
    _, real = GRID.plan(1.28).place_frames(np.array([0.0, 0.9]))
    assert real.tolist() == [True, False, True, False]


def test_timestamps_rounded_to_milliseconds_fall_into_their_slots():
    exact = np.arange(75) / 25
    for rounded in (exact - 4e-4, exact + 4e-4):
        index, real = GRID.plan(3.0).place_frames(rounded)
        assert index.ravel()[:75].tolist() == list(range(75))
        assert real.all()


@pytest.mark.parametrize("seconds", [0.01, 0.31, 0.32, 0.3200000001, 0.33, 3.2, 5.12])
def test_chunks_cover_the_clip_and_no_more(seconds):
    plan = GRID.plan(seconds)
    assert plan.times[-1, 1] >= seconds - 1e-6
    assert plan.times[-1, 0] < seconds


@pytest.mark.parametrize("seconds", [0.02, 0.7, 3.0, 5.12])
@pytest.mark.parametrize("offset", [0.0, 0.13])
def test_policies_agree_up_to_the_budget(seconds, offset):
    grid = TimeGrid(25.0, 8, 32, max_chunks=17)
    plans = [grid.plan(seconds, policy, offset_seconds=offset) for policy in ("uniform", "snippets", "dense")]
    for plan in plans[1:]:
        assert np.array_equal(plan.times, plans[0].times)
        assert plan.seconds_per_chunk == plans[0].seconds_per_chunk == 0.32


def test_long_clip_by_hand():
    uniform, snippets, dense = (GRID.plan(6.4, policy, max_chunks=5) for policy in ("uniform", "snippets", "dense"))
    assert uniform.times.round(9).tolist() == [[0, 1.28], [1.28, 2.56], [2.56, 3.84], [3.84, 5.12], [5.12, 6.4]]
    assert snippets.times.round(9).tolist() == [[0.48, 0.8], [1.76, 2.08], [3.04, 3.36], [4.32, 4.64], [5.6, 5.92]]
    assert dense.times.shape == (20, 2)
    assert dense.times[[0, 19]].round(9).tolist() == [[0, 0.32], [6.08, 6.4]]
    assert uniform.shown_times[1].round(9).tolist() == [1.28, 1.44, 1.6, 1.76, 1.92, 2.08, 2.24, 2.4]


def test_snippets_just_above_the_budget_do_not_overlap():
    plan = GRID.plan(5.13, "snippets")
    assert len(plan.starts) == 16
    assert np.diff(plan.starts).min() >= 0.32
    assert plan.starts[0] >= 0 and plan.times[-1, 1] <= 5.13


def test_offset_moves_the_grid_back():
    plan = GRID.plan(3.0, offset_seconds=0.29)
    assert plan.times[0].round(9).tolist() == [-0.29, 0.03]
    assert len(plan.starts) == 11  # 3.29 s
    index, real = plan.place_frames(np.arange(75) / 25)
    #      slots:  -.29 -.25 -.21 -.17 -.13 -.09 -.05 -.01, then .03 .07 ...
    assert index[:2].tolist() == [[0] * 8, [0, 1, 2, 3, 4, 5, 6, 7]]
    assert real.all()


@pytest.mark.parametrize("policy", ["uniform", "snippets", "dense"])
@pytest.mark.parametrize("seconds", [1.0, 7.3, 61.7])
def test_wanted_times_decide_everything(policy, seconds):
    """Placing only the frames that were asked for gives the same pictures and the same real chunks as placing all."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0.2, seconds, round(seconds * 11)))
    plan = GRID.plan(seconds, policy)
    kept = np.unique((np.searchsorted(times, plan.wanted_times, side="right") - 1).clip(min=0))
    index, real = plan.place_frames(times)
    kept_index, kept_real = plan.place_frames(times[kept])
    assert np.array_equal(real, kept_real)
    assert np.array_equal(index[real], kept[kept_index][real])
    assert (np.diff(plan.wanted_times) > 0).all()


def test_plan_of_one_frame_slot_works():
    assert ChunkPlan(np.array([0.0]), 0.04, 1).shown_times.tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TimeGrid(25.0, 8, 64), "25.0 a second last 0.32 s and 64 mel frames .* 0.64 s: set .* to 32"),
        (lambda: TimeGrid(num_frames_per_chunk=0), "num_frames_per_chunk must be above 0, but it is 0"),
        (lambda: GRID.plan(3.0, "all"), "one of uniform, snippets, dense, but it is 'all': use 'uniform'"),
        (lambda: GRID.plan(3.0, max_chunks=0), "max_chunks must be at least 1, but it is 0"),
        (
            lambda: GRID.plan(3.0, offset_seconds=0.32),
            r"in \[0, 0.32\) s, one chunk, but it is 0.32 s: take it modulo",
        ),
    ],
)
def test_impossible_grids_are_refused_with_a_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("seconds", [0.32, 0.64])
def test_frames_one_millisecond_beside_a_moment_lie_on_one_side_of_it(seconds):
    """Matroska stamps whole milliseconds; what a reader picks for the moments is then what the slots show."""
    plan = ChunkPlan(np.arange(400) * seconds, seconds, 8)
    times = np.sort(np.random.default_rng(0).choice(round(400 * seconds * 1_000), 20_000, replace=False)) / 1_000
    picked = np.unique((np.searchsorted(times, plan.wanted_times + SAME_TIME_SECONDS, side="right") - 1).clip(min=0))
    everything, real = plan.place_frames(times)
    index, still_real = plan.place_frames(times[picked])
    assert np.array_equal(times[picked][index], times[everything])
    assert np.array_equal(real, still_real)
    held = np.searchsorted(times, plan.times - TOLERANCE_SECONDS)
    assert np.array_equal(held[1:, 0], held[:-1, 1]), "every frame belongs to one chunk"
