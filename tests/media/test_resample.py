"""Resampling in pieces: the sizes of the pieces and saves between them change no bit."""

import numpy as np
import pytest
import soxr

from mirasol.media.resample import SAMPLING_RATE, Resampler

RATES = (8_000, 11_025, 16_000, 22_050, 44_100, 48_000)


def noise(rate: int, seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, round(rate * seconds)).astype(np.float32)


def in_pieces(samples: np.ndarray, rate: int, save: bool) -> np.ndarray:
    generator = np.random.default_rng(rate)
    resampler, given, place = Resampler(rate), [], 0
    while place < len(samples):
        size = int(generator.integers(1, 2 * rate))
        given.append(resampler.push(samples[place : place + size]))
        place += size
        if save:
            resampler = Resampler.from_state(resampler.state())
    return np.concatenate([*given, resampler.push(samples[:0], last=True)])


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("save", [False, True], ids=["", "saved"])
def test_pieces_and_saves_change_no_bit(rate, save):
    samples = noise(rate, 21.3)  # three blocks
    whole = Resampler(rate).push(samples, last=True)
    assert np.array_equal(in_pieces(samples, rate, save), whole)


@pytest.mark.parametrize("rate", RATES)
def test_blocks_equal_resampling_the_whole_at_once(rate):
    samples = noise(rate, 21.3)
    expected = soxr.resample(samples, rate, SAMPLING_RATE)
    # A stream that starts elsewhere rounds elsewhere: a few steps of float32 at up to 2.0, the overshoot of the noise.
    np.testing.assert_allclose(Resampler(rate).push(samples, last=True), expected, rtol=0, atol=1e-6)


def test_state_is_bounded():
    resampler = Resampler(48_000)
    for _ in range(40):
        resampler.push(noise(48_000, 1.0))
    assert resampler.state()["recent"].nbytes <= 12.2 * 48_000 * 4
