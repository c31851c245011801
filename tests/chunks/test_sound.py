"""Sound in chunks: placed by seconds, causal across chunks, power averaged before the log."""

import math

import numpy as np
import pytest
import torch
from einops import rearrange

from mirasol.chunks import ChunkPlan, TimeGrid, sound
from mirasol.chunks.sound import averaging_weights, chunks_with_sound, log_mel_chunks
from mirasol.features import MirasolFeatureExtractor
from mirasol.features.feature_extraction_mirasol import LOOKBACK_SAMPLES, mel_power
from mirasol.media.resample import Resampler

MEL_FRAMES, MEL = 32, 17
LOOKAHEAD_SECONDS = {8_000: 0.024, 22_050: 0.012, 44_100: 0.012, 48_000: 0.012}
GRID = TimeGrid(25.0, 8, MEL_FRAMES)
EXTRACTOR = MirasolFeatureExtractor(num_mel_bins=MEL)


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(seed))


def log_mel(plan: ChunkPlan, waveform: torch.Tensor, audio_start: float = 0.0) -> torch.Tensor:
    return log_mel_chunks(plan, waveform, audio_start, MEL_FRAMES, EXTRACTOR)


def test_chunks_cut_the_log_mel_of_the_whole_sound():
    waveform = noise(3.2)
    whole = EXTRACTOR(waveform, 16_000)["input_features"][0]
    chunks = rearrange(log_mel(GRID.plan(3.2), waveform), "chunk mel_frame mel -> (chunk mel_frame) mel")
    torch.testing.assert_close(chunks, whole, atol=1e-5, rtol=0)  # matrix products of other heights round differently


@pytest.mark.parametrize("last_chunk", [0, 3, 8])
def test_chunks_ignore_later_sound(last_chunk):
    waveform, changed = noise(3.0), noise(3.0)
    end = (last_chunk + 1) * 5_120
    changed[end:] = noise(3.0, seed=1)[end:]
    before, after = (log_mel(GRID.plan(3.0), w) for w in (waveform, changed))
    assert torch.equal(before[: last_chunk + 1], after[: last_chunk + 1])
    assert not torch.equal(before[last_chunk + 1], after[last_chunk + 1])


@pytest.mark.parametrize("seconds", [7.01, 3.3, 40.0])
def test_stretched_chunks_ignore_later_sound(seconds):
    """Also where a chunk ends inside a column of 10 ms."""
    plan = GRID.plan(seconds, "uniform", max_chunks=3)
    waveform, other = noise(seconds), noise(seconds, seed=1)
    for chunk in range(2):
        end = round(float(plan.starts[chunk + 1]) * 16_000)
        before, after = (log_mel(plan, w) for w in (waveform, torch.cat([waveform[:end], other[end:]])))
        assert torch.equal(before[: chunk + 1], after[: chunk + 1])
        assert not torch.equal(before[chunk + 1], after[chunk + 1])


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_chunks_ignore_native_sound_that_is_more_than_twelve_milliseconds_later(rate):
    """The promise of docs/shapes.md: equal up to the rounding of the resampler's FFT, 3e-7 of full scale."""
    native = 0.1 * np.random.default_rng(0).standard_normal(3 * rate).astype(np.float32)
    for chunk in (0, 3, 7):
        end = GRID.plan(3.0).times[chunk, 1]
        changed = native.copy()
        changed[math.ceil((end + LOOKAHEAD_SECONDS[rate]) * rate) :] *= -1
        before, after = (torch.from_numpy(Resampler(rate).push(sound, last=True)) for sound in (native, changed))
        count = round(end * 16_000)
        torch.testing.assert_close(before[:count], after[:count], atol=3e-7, rtol=0)
        # Where an octave of the spectrum is empty (8 kHz), the log would show that rounding: power is compared.
        mel = [
            mel_power(torch.nn.functional.pad(sound[:count], (LOOKBACK_SAMPLES, 0))[None]) for sound in (before, after)
        ]
        torch.testing.assert_close(*mel, atol=1e-6, rtol=1e-3)
        assert (before - after)[count + 400 : count + 5_000].abs().max() > 0.05


def test_long_sound_is_averaged_in_pieces_like_short(monkeypatch):
    waveform, plan = noise(20.0), GRID.plan(20.0, "uniform", max_chunks=2)
    whole = log_mel(plan, waveform)
    monkeypatch.setattr(sound, "COLUMNS_AT_ONCE", 13)
    torch.testing.assert_close(log_mel(plan, waveform), whole, atol=1e-5, rtol=0)  # sums of another order
    assert torch.equal(log_mel(plan, waveform.numpy()), log_mel(plan, waveform))


def test_late_sound_lies_at_its_own_seconds():
    waveform = noise(1.0)
    late = log_mel(GRID.plan(1.64), waveform, audio_start=0.64)
    assert torch.equal(late[:2], torch.full_like(late[:2], EXTRACTOR.floor))
    assert torch.equal(late[2:5], log_mel(GRID.plan(1.0), waveform)[:3])


def test_sound_that_ended_is_the_floor():
    features = log_mel(GRID.plan(1.0), noise(0.5))
    assert (features[2:] == EXTRACTOR.floor).all()
    #  0.5 s is column 18 of chunk 1; windows reach back 15 ms, so two more columns hear its end.
    assert (features[1, :20] != EXTRACTOR.floor).all()
    assert (features[1, 20:] == EXTRACTOR.floor).all()


def test_grid_that_starts_before_the_sound_moves_it():
    waveform = noise(1.0)
    plan = GRID.plan(1.0, offset_seconds=0.1)
    moved = rearrange(log_mel(plan, waveform), "chunk mel_frame mel -> (chunk mel_frame) mel")
    unmoved = rearrange(log_mel(GRID.plan(1.0), waveform), "chunk mel_frame mel -> (chunk mel_frame) mel")
    assert (moved[:10] == EXTRACTOR.floor).all()
    torch.testing.assert_close(moved[10:110], unmoved[:100])


@pytest.mark.parametrize(
    ("samples", "audio_start", "expected"),
    [
        (5_120 + 159, 0.0, [True, False, False]),  # 9.9 ms in the second chunk
        (5_120 + 160, 0.0, [True, True, False]),  # 10 ms
        (160, 0.315, [False, False, False]),  # 5 ms on each side of the boundary
        (16_000, 0.311, [False, True, True]),
        (16_000, 0.309, [True, True, True]),
        (159, 0.0, [False, False, False]),
    ],
)
def test_a_chunk_has_sound_if_it_holds_ten_milliseconds(samples, audio_start, expected):
    assert chunks_with_sound(GRID.plan(0.96), samples, audio_start, 16_000).tolist() == expected


def test_averaging_weights_by_hand():
    torch.testing.assert_close(
        averaging_weights(5.0, 2, 5), torch.tensor([[0.4, 0.4, 0.2, 0.0, 0.0], [0.0, 0.0, 0.2, 0.4, 0.4]])
    )
    assert torch.equal(averaging_weights(3.0, 3, 3), torch.eye(3))
    torch.testing.assert_close(
        averaging_weights(4.5, 2, 4), torch.tensor([[4, 4, 1, 0], [0, 0, 3, 4]]) / torch.tensor([[9.0], [7.0]])
    )
    weights = averaging_weights(67.3, 7, 67)
    torch.testing.assert_close(weights.sum(1), torch.ones(7))


def test_uniform_averages_power_before_the_log():
    waveform = noise(6.4)
    plan = GRID.plan(6.4, "uniform", max_chunks=5)  # 128 columns into 32
    features = log_mel(plan, waveform)
    power = mel_power(torch.nn.functional.pad(waveform, (LOOKBACK_SAMPLES, 0))[None], MEL)[0]
    for chunk, column, mel in ((0, 0, 0), (2, 13, 5), (4, 31, 16)):
        first = 128 * chunk + 4 * column
        mean = sum(power[first + k, mel] for k in range(4)) / 4
        expected = (np.log(max(float(mean), 2.0**-23)) - EXTRACTOR.mean) / (2 * EXTRACTOR.std)
        assert float(features[chunk, column, mel]) == pytest.approx(expected, abs=1e-5)


def test_uniform_over_uneven_spans_keeps_the_mean_power():
    waveform = noise(7.01)
    plan = GRID.plan(7.01, "uniform", max_chunks=3)
    features = log_mel(plan, waveform)
    assert features.shape == (3, MEL_FRAMES, MEL)
    power = (features * 2 * EXTRACTOR.std + EXTRACTOR.mean).exp().mean(dim=(0, 1))
    whole = mel_power(torch.nn.functional.pad(waveform, (LOOKBACK_SAMPLES, 0))[None], MEL)[0].mean(0)
    torch.testing.assert_close(power[3:], whole[3:], rtol=0.02, atol=0)  # the spans end within a column of the clip


def test_every_gap_counts_and_a_part_of_one_outside_the_sound_does_not():
    plan = TimeGrid(25.0, 8, 32).plan(1.28)
    gaps = [(0.0, 0.2), (0.2, 0.311), (0.64, 0.96), (1.2, 3.0)]  # 9 ms of the first chunk are heard
    assert chunks_with_sound(plan, 20_480, 0.0, 16_000, gaps).tolist() == [False, True, False, True]
    assert chunks_with_sound(plan, 20_480, 0.0, 16_000, gaps[1:]).tolist() == [True, True, False, True]
    # 15 ms are heard, before a gap that goes on after the sound's end, and after one that began before its start.
    assert chunks_with_sound(plan, 15_680, 0.0, 16_000, [(0.975, 3.0)]).tolist() == [True, True, True, True]
    assert chunks_with_sound(plan, 15_680, 0.3, 16_000, [(0.0, 0.305)]).tolist() == [True, True, True, True]


@pytest.mark.parametrize(
    ("gap", "real"),
    [
        ((0.32, 0.64), [True, False, True]),
        ((0.32, 0.63), [True, True, True]),  # 10 ms of the second chunk are heard
        ((0.32, 0.6301), [True, False, True]),
        ((0.0, 0.64), [False, False, True]),
        ((-1.0, 0.64), [False, False, True]),
        ((0.5, 9.0), [True, True, False]),
    ],
)
def test_chunks_inside_a_gap_have_no_sound(gap, real):
    plan = TimeGrid(25.0, 8, 32).plan(0.96)
    assert chunks_with_sound(plan, 15_360, 0.0, 16_000, [gap]).tolist() == real
    shifted = (gap[0] + 0.32, gap[1] + 0.32)
    later = TimeGrid(25.0, 8, 32).plan(1.28)
    assert chunks_with_sound(later, 15_360, 0.32, 16_000, [shifted]).tolist() == [False, *real]
