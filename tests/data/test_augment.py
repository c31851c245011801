"""Augmentation keeps picture, sound and labels synchronous, and is the same for the same seed."""

import dataclasses

import numpy as np
import pytest
import torch
from clips import UNVARIED

from mirasol.data.augment import (
    PRESETS,
    AugmentConfig,
    augment_audio,
    augment_video,
    draw_phase,
    draw_tracks,
    generator,
    mask_spectrogram,
    move_in_time,
    noisy,
)
from mirasol.media import Clip

FRAMES, SIZE, SAMPLES, RATE = 73, 17, 46_720, 16_000  # 2.92 s
FIRST, LAST = 0.68, 2.2  # seconds of the two flashes, where the first word begins and the last one ends
WORD_TIMES = [(FIRST, 1.1), (1.1, LAST)]


@pytest.fixture
def clip() -> Clip:
    """A grey, silent clip; at both seconds one frame flashes and the sound clicks."""
    frames = np.full((FRAMES, SIZE, SIZE, 3), 100, np.uint8)
    waveform = np.zeros(SAMPLES, np.float32)
    for second in (FIRST, LAST):
        frames[round(second * 25)] = 250
        waveform[round(second * RATE)] = 1.0
    return Clip(frames, np.arange(FRAMES) / 25, waveform, duration=FRAMES / 25)


def copy_of(clip: Clip) -> Clip:
    return dataclasses.replace(
        clip, frames=clip.frames.copy(), frame_times=clip.frame_times.copy(), waveform=clip.waveform.copy()
    )


def seconds_of_flashes(clip: Clip) -> np.ndarray:
    bright = clip.frames.max(axis=(1, 2, 3)) > 200
    return clip.frame_times[bright & ~np.roll(bright, 1)]


def seconds_of_clicks(clip: Clip) -> np.ndarray:
    loud = np.flatnonzero(np.abs(clip.waveform) > 0.4)
    return loud[np.diff(loud, prepend=-100) > 50] / RATE


def test_picture_sound_and_words_move_together(clip):
    config = AugmentConfig(freeze_probability=0.0)
    shifts = []
    for epoch in range(100):
        moved, words = move_in_time(clip, WORD_TIMES, config, generator(0, epoch, "clip"), 25.0)
        expected = np.array([words[0][0], words[-1][1]])
        np.testing.assert_allclose(seconds_of_clicks(moved), expected, atol=0.001)  # the resampler spreads a click
        flashes = seconds_of_flashes(moved)
        # A fast clip may skip the one flashing frame; a shown one is late by less than a frame.
        nearest = expected[np.abs(flashes[:, None] - expected).argmin(axis=1)]
        assert ((flashes - nearest) > -1e-6).all() and ((flashes - nearest) < 0.04 + 1e-6).all()
        assert words[0][0] >= 0 and words[-1][1] <= moved.duration + 1e-9
        assert 1 / 1.1 <= moved.duration / clip.duration <= 1 / 0.9
        assert abs(len(moved.waveform) / RATE - moved.duration) < 0.001
        assert 0 <= len(moved.frames) / 25 - moved.duration < 0.04
        shifts.append(words[0][0] - FIRST * moved.duration / clip.duration)
    assert min(shifts) < -0.2 and max(shifts) > 0.4


def test_frames_of_variable_rate_are_placed_by_their_seconds(clip):
    kept = np.sort(np.random.default_rng(0).choice(FRAMES, 41, replace=False))
    kept = np.union1d(kept, [0, round(FIRST * 25), round(LAST * 25)])
    sparse = dataclasses.replace(clip, frames=clip.frames[kept], frame_times=clip.frame_times[kept])
    config = dataclasses.replace(UNVARIED, shift_seconds=(0.2, 0.2001))
    moved, words = move_in_time(sparse, WORD_TIMES, config, generator(0, 0, "clip"), 25.0)
    np.testing.assert_allclose(seconds_of_flashes(moved), [words[0][0], words[-1][1]], atol=1e-6)


def test_shift_is_limited_by_the_words_and_absent_without_them(clip):
    config = AugmentConfig(speed=(1.0, 1.0), freeze_probability=0.0)
    late = [(0.1, 1.0), (1.0, 2.85)]
    for epoch in range(50):
        _, words = move_in_time(clip, late, config, generator(0, epoch, "clip"), 25.0)
        assert words[0][0] >= 0 and words[-1][1] <= clip.duration
        moved, _ = move_in_time(clip, (), config, generator(0, epoch, "clip"), 25.0)
        assert np.array_equal(moved.waveform, clip.waveform) and np.array_equal(moved.frames, clip.frames)


def test_sound_that_starts_late_or_is_absent_stays_in_place(clip):
    late = dataclasses.replace(clip, waveform=clip.waveform[3200:], audio_start=0.2)
    config = dataclasses.replace(UNVARIED, speed=(0.93, 0.93))
    moved, words = move_in_time(late, WORD_TIMES, config, generator(0, 0, "clip"), 25.0)
    np.testing.assert_allclose(seconds_of_clicks(moved), [words[0][0], words[-1][1]], atol=0.001)
    silent = dataclasses.replace(clip, waveform=None)
    moved, _ = move_in_time(silent, WORD_TIMES, config, generator(0, 0, "clip"), 25.0)
    assert moved.waveform is None and len(moved.frames) == int(np.ceil(2.92 / 0.93 * 25))
    unseen = dataclasses.replace(clip, frames=None, frame_times=None)
    moved, _ = move_in_time(unseen, WORD_TIMES, config, generator(0, 0, "clip"), 25.0)
    assert moved.frames is None and abs(len(moved.waveform) / RATE - 2.92 / 0.93) < 0.001


def test_off_changes_nothing(clip):
    config, rng = UNVARIED, generator(0, 0, "clip")
    moved, words = move_in_time(clip, WORD_TIMES, config, rng, 25.0)
    assert moved is clip and words is WORD_TIMES
    assert np.array_equal(augment_video(clip.frames, SIZE, config, rng), clip.frames)
    assert augment_audio(clip.waveform, config, rng) is clip.waveform
    features = torch.randn(5, 7, 11)
    assert mask_spectrogram(features, config, rng) is features
    assert draw_tracks(config, rng, clip) == (True, True) and draw_phase(config, rng, 0.32) == 0


def test_inputs_are_not_modified(clip):
    before, config = copy_of(clip), AugmentConfig(noise_probability=1.0)
    features = torch.ones(5, 7, 11)
    for epoch in range(20):
        rng = generator(0, epoch, "clip")
        move_in_time(clip, WORD_TIMES, config, rng, 25.0)
        augment_video(clip.frames, 13, config, rng)
        augment_audio(clip.waveform, config, rng)
        mask_spectrogram(features, config, rng)
    assert np.array_equal(clip.frames, before.frames) and np.array_equal(clip.waveform, before.waveform)
    assert torch.equal(features, torch.ones(5, 7, 11))


def test_every_frame_is_augmented_alike():
    frames = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 23, 23, 3), np.uint8), 5, axis=0)
    seen = set()
    for epoch in range(20):
        augmented = augment_video(frames, 19, AugmentConfig(), generator(0, epoch, "clip"))
        assert augmented.shape == (5, 19, 19, 3) and augmented.dtype == np.uint8
        assert (augmented == augmented[:1]).all()
        seen.add(augmented.tobytes())
    assert len(seen) == 20


def test_colors_change_as_the_formula_says():
    frames = np.random.default_rng(0).integers(0, 256, (3, 7, 7, 3), np.uint8)
    for contrast, brightness in ((1.25, 0.0), (0.75, 0.0), (2.0, 0.0)):
        config = dataclasses.replace(UNVARIED, contrast=(contrast, contrast), brightness=brightness)
        expected = np.clip((frames.astype(float) - 127.5) * contrast + 127.5, 0, 255)
        augmented = augment_video(frames, 7, config, generator(0, 0, "clip"))
        assert np.abs(augmented - expected).max() <= 1  # whole levels, rounded down


@pytest.mark.parametrize("color", ["white", "pink"])
@pytest.mark.parametrize("snr_db", [-10.0, -5.0, 0.0, 20.0])
def test_noise_has_exactly_the_asked_ratio(color, snr_db):
    waveform = np.sin(np.arange(46_327) / 7).astype(np.float32)
    noise = (noisy(waveform, snr_db, 3, color=color) - waveform).astype(np.float64)
    ratio = 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2) / np.mean(noise**2))
    assert ratio == pytest.approx(snr_db, abs=0.01)
    assert np.array_equal(noisy(waveform, snr_db, 3, color=color), noisy(waveform, snr_db, 3, color=color))
    low, high = (np.abs(np.fft.rfft(noise)[band]).mean() for band in (slice(20, 500), slice(20_000, 23_000)))
    assert low / high == pytest.approx(1.0, abs=0.2) if color == "white" else low / high > 5


def test_gain_is_decibels_of_amplitude():
    waveform = np.sin(np.arange(1_003) / 7).astype(np.float32)
    config = dataclasses.replace(UNVARIED, gain_db=(6.0206, 6.0206))
    np.testing.assert_allclose(augment_audio(waveform, config, generator(0, 0, "clip")), 2 * waveform, rtol=1e-4)


def test_a_flip_mirrors_left_and_right():
    frames = np.random.default_rng(0).integers(0, 256, (3, 7, 7, 3), np.uint8)
    config = dataclasses.replace(UNVARIED, flip_probability=1.0)
    assert np.array_equal(augment_video(frames, 7, config, generator(0, 0, "clip")), frames[:, :, ::-1])


def test_a_shift_turns_picture_and_sound_in_one_direction_around_the_ends(clip):
    clip = dataclasses.replace(clip, frames=clip.frames.copy())
    clip.frames[:, 0, 0, 0] = np.arange(FRAMES)
    config = dataclasses.replace(UNVARIED, shift_seconds=(0.2, 0.2001))
    moved, _ = move_in_time(clip, WORD_TIMES, config, generator(0, 0, "clip"), 25.0)
    assert np.array_equal(moved.frames[:, 0, 0, 0], np.roll(np.arange(FRAMES), 5))
    assert np.array_equal(moved.waveform, np.roll(clip.waveform, 3_200))


def test_noise_over_silence_is_silence():
    assert not noisy(np.zeros(101, np.float32), -10.0, 0).any()


def test_senses_are_dropped_as_often_as_asked_and_never_both(clip):
    config = AugmentConfig(sound_only_probability=0.2, picture_only_probability=0.3)
    draws = [draw_tracks(config, generator(0, epoch, "clip"), clip) for epoch in range(2000)]
    assert (False, False) not in draws
    assert draws.count((False, True)) / 2000 == pytest.approx(0.2, abs=0.04)
    assert draws.count((True, False)) / 2000 == pytest.approx(0.3, abs=0.04)
    silent = dataclasses.replace(clip, waveform=None)
    unseen = dataclasses.replace(clip, frames=None, frame_times=None)
    assert {draw_tracks(config, generator(0, epoch, "clip"), silent) for epoch in range(50)} == {(True, False)}
    assert {draw_tracks(config, generator(0, epoch, "clip"), unseen) for epoch in range(50)} == {(False, True)}


def test_masks_are_bounded_bands_and_stretches():
    config = AugmentConfig(num_time_masks=1, num_mel_masks=1, time_mask_seconds=0.05, mel_mask_share=0.3)
    touched = set()
    for epoch in range(100):
        masked = mask_spectrogram(torch.ones(5, 7, 11), config, generator(0, epoch, "clip")).reshape(35, 11) == 0
        num_columns, num_mels = masked.all(dim=1).sum().item(), masked.all(dim=0).sum().item()
        assert num_columns <= 5 and num_mels <= 3
        assert masked.sum() == num_columns * 11 + num_mels * 35 - num_columns * num_mels
        touched.add((num_columns, num_mels))
    assert len(touched) > 10


def test_generator_depends_on_seed_epoch_and_id():
    triples = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    assert len({generator(*triple).random() for triple in triples}) == 4
    assert generator(0, 1, "a").random() == generator(0, 1, "a").random()


def test_contradicting_strengths_are_refused():
    with pytest.raises(ValueError, match=r"speed as \[low, high\], found \[1.1, 0.9\]"):
        AugmentConfig(speed=(1.1, 0.9))
    with pytest.raises(ValueError, match="found 0.6 \\+ 0.5"):
        AugmentConfig(sound_only_probability=0.6, picture_only_probability=0.5)


def test_sound_comes_first_and_noise_grows():
    config = AugmentConfig(noise_probability=0.4, noise_ramp_epochs=(4.0, 8.0), sound_first_epochs=3)
    epochs = [config.at_epoch(epoch) for epoch in (0, 2, 3, 4, 6, 8, 11)]
    assert [e.noise_probability for e in epochs] == pytest.approx([0, 0, 0, 0, 0.2, 0.4, 0.4])
    assert [e.sound_only_probability for e in epochs] == [1, 1, *[config.sound_only_probability] * 5]
    assert [e.picture_only_probability for e in epochs] == [0, 0, *[config.picture_only_probability] * 5]


def test_presets_are_none_at_all_harmless_to_left_right_and_when_or_as_strong_as_the_defaults(clip):
    none, gentle = PRESETS["none"], PRESETS["gentle"]
    for seed in range(20):
        moved, words = move_in_time(clip, [(0.2, 0.5)], gentle, generator(seed, 0, "clip"), 25.0)
        assert moved is clip and words == [(0.2, 0.5)], "an answer about time would become wrong"
        rng = generator(seed, 0, "clip")
        assert draw_tracks(none, rng, clip) == (True, True) and draw_phase(none, rng, 0.64) == 0
        assert (augment_video(clip.frames, clip.frames.shape[1], none, rng) == clip.frames).all()
        assert (augment_audio(clip.waveform, none, rng) == clip.waveform).all()
        features = torch.ones(2, 5, 7)
        assert mask_spectrogram(features, none, rng) is features
    assert gentle.flip_probability == 0 and gentle.noise_db[0] > 0 and PRESETS["strong"] == AugmentConfig()
