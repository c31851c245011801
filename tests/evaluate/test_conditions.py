"""Showing a clip: what is taken away is gone, what is swapped is the other clip's, noise has the asked strength."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mirasol.evaluate.conditions import Condition, add_noise, all_conditions, borrow_sound, swap_partners
from mirasol.media import read_clip
from mirasol.tasks import Question, Row, get_task, grid


@pytest.fixture(scope="module")
def rows(grid_root) -> list:
    return get_task("grid").load(grid_root, "test")[:11]


def test_sound_only_has_no_picture_and_picture_only_no_sound(rows):
    assert Condition("sound").read(rows[0]).frames is None
    assert Condition("picture").read(rows[0]).waveform is None


@pytest.mark.parametrize("name", ["both", "sound", "picture", "swapped", "silent"])
def test_showing_a_decoded_clip_equals_decoding_it_as_shown(rows, name):
    condition = Condition(name, None if name in ("picture", "silent") else -5.0, 3)
    decoded = condition.apply(read_clip(rows[0].media), rows[0].id, read_clip(rows[1].media))
    read = condition.read(rows[0], read_clip(rows[1].media, use_video=False))
    for field in ("frames", "frame_times", "waveform"):
        first, second = getattr(decoded, field), getattr(read, field)
        assert (first is None and second is None) or np.array_equal(first, second)


def test_a_clip_of_which_nothing_is_left_is_refused(rows):
    silent = dataclasses.replace(read_clip(rows[0].media), waveform=None)
    with pytest.raises(ValueError, match="a has nothing to show as sound only"):
        Condition("sound").apply(silent, "a")


def test_swapped_sound_is_the_other_clips_and_the_picture_its_own(rows):
    shown = Condition("swapped").read(rows[0], read_clip(rows[1].media, use_video=False))
    assert np.array_equal(shown.frames, read_clip(rows[0].media).frames)
    assert np.array_equal(shown.waveform, read_clip(rows[1].media).waveform)


@pytest.mark.parametrize("noise_db", [-10.0, -5.0, 7.0])
def test_noise_has_the_asked_ratio_over_the_whole_clip(rows, noise_db):
    waveform = read_clip(rows[0].media, use_video=False).waveform
    noise = add_noise(waveform, noise_db, 0, "a") - waveform
    assert 10 * np.log10(np.mean(waveform**2) / np.mean(noise**2)) == pytest.approx(noise_db, abs=0.01)


def test_noise_depends_on_seed_and_clip_alone():
    waveform = np.ones(997, np.float32)
    assert np.array_equal(add_noise(waveform, 0.0, 1, "a"), add_noise(waveform, 0.0, 1, "a"))
    assert not np.array_equal(add_noise(waveform, 0.0, 1, "a"), add_noise(waveform, 0.0, 2, "a"))
    assert not np.array_equal(add_noise(waveform, 0.0, 1, "a"), add_noise(waveform, 0.0, 1, "b"))


def test_every_partner_differs_in_every_word_of_the_sentence(grid_root):
    rows = get_task("grid").load(grid_root, "test")
    for row, partner in zip(rows, swap_partners(rows, grid.WORD_KINDS, seed=1), strict=True):
        different = sum(a != b for a, b in zip(row.words, rows[partner[0]].words, strict=True))
        assert different == 6, (row.words, rows[partner].words)


def test_partners_prefer_different_answers_and_never_are_the_clip_itself():
    def row(name, answer):
        return Row(name, Path(name), (Question(name, "which color?", answer, "color"),))

    rows = [row("a", "red"), row("b", "red"), row("c", "blue")]
    assert [partners[0] for partners in swap_partners(rows)[:2]] == [2, 2]
    assert swap_partners(rows)[2][0] in (0, 1)
    assert sorted(swap_partners(rows)[0]) == [1, 2]
    with pytest.raises(ValueError, match="at least 2 files"):
        swap_partners(rows[:1])


def test_sound_never_comes_from_another_clip_of_the_same_file():
    rows = [
        Row(str(i), Path(file), (Question(str(i), "which color?", str(i), "color"),)) for i, file in enumerate("aaab")
    ]
    assert swap_partners(rows)[:3] == [[3], [3], [3]]
    assert sorted(swap_partners(rows)[3]) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 2 files, found 1"):
        swap_partners(rows[:3])


def test_noise_on_a_clip_that_is_not_heard_is_refused():
    with pytest.raises(ValueError, match="hears nothing"):
        Condition("picture", noise_db=-10)
    with pytest.raises(ValueError, match="out of both"):
        Condition("smell")


def test_showing_does_not_change_the_clip(rows):
    clip = read_clip(rows[0].media)
    before = dataclasses.replace(clip, waveform=clip.waveform.copy())
    Condition("both", 0.0, 1).apply(clip, "a")
    assert np.array_equal(clip.waveform, before.waveform)


def test_silence_is_sound_of_zeros_and_the_picture_stays(rows):
    clip = read_clip(rows[0].media)
    shown = Condition("silent").apply(clip, "a")
    assert len(shown.waveform) == len(clip.waveform) and not shown.waveform.any()
    assert np.array_equal(shown.frames, clip.frames)


def test_partners_of_clips_that_are_asked_different_things_have_other_answers():
    """As in ActivityNet-QA, where hardly any question is asked of two clips."""
    answers = ["yes", "yes", "no", "red", "yes"] * 140  # more clips than are compared with each other
    rows = [
        Row(str(i), Path(str(i)), (Question(f"{i}/0", f"question {i}?", answer, "x"),))
        for i, answer in enumerate(answers)
    ]
    for row, partners in zip(rows, swap_partners(rows), strict=True):
        assert len(partners) == 4
        assert all(answers[j] != row.questions[0].answer for j in partners)


def test_a_shown_clip_has_the_noise_of_its_condition_and_its_own_name(rows):
    clip = read_clip(rows[0].media)

    def heard(seed, name):
        return Condition(noise_db=5.0, noise_seed=seed).apply(clip, name).waveform

    np.testing.assert_array_equal(heard(3, "a"), add_noise(clip.waveform, 5.0, 3, "a"))
    assert not np.array_equal(heard(3, "a"), heard(4, "a"))
    assert not np.array_equal(heard(3, "a"), heard(3, "b"))


def test_swapped_sound_keeps_the_second_at_which_it_starts(rows):
    clip, lender = (read_clip(row.media) for row in rows[:2])
    late = dataclasses.replace(lender, audio_start=0.25, audio_gaps=[(0.5, 0.7)])
    shown = Condition("swapped").apply(clip, rows[0].id, late)
    assert shown.audio_start == 0.25 and shown.audio_gaps == [(0.5, 0.7)]
    assert shown.waveform is late.waveform and shown.frames is clip.frames


def test_sound_is_borrowed_from_the_first_clip_that_has_any(rows, repository):
    silent_film = Row("mute", repository / "data" / "clips" / "helicopter_noaudio.mp4")
    missing = Row("missing", Path("no/such/clip.mp4"))
    lender, sound = borrow_sound([missing, silent_film, rows[1]])
    assert lender is rows[1]
    assert np.array_equal(sound.waveform, read_clip(rows[1].media).waveform)
    with pytest.raises(ValueError, match=r"could lend it \(mute\)"):
        borrow_sound([silent_film])


def test_leaving_out_the_sound_on_purpose_warns_of_nothing(loaded, grid_root):
    _, processor = loaded
    row = get_task("grid").load(grid_root, "test")[0]
    clip = Condition("picture").read(row, reader=processor.read_clip)
    assert clip.waveform is None and not processor.chunk_and_describe(clip)[1].warnings
    assert processor.chunk_and_describe(processor.read_clip(row.media, use_audio=False))[1].warnings


def test_swapped_sound_stands_where_it_stood_in_its_own_clip(rows):
    """Not where the picture's sound began."""
    clip, lender = read_clip(rows[0].media), read_clip(rows[1].media, use_video=False)
    shown = Condition("swapped").apply(
        dataclasses.replace(clip, audio_start=0.25), "a", dataclasses.replace(lender, audio_start=0.75)
    )
    assert shown.audio_start == 0.75


def test_conditions_and_noise_levels_are_all_combined_once():
    found = all_conditions(["both", "sound"], [-5.0, -10.0], [0, 1])
    assert [c.key for c in found[:3]] == ["both_-5dB_seed0", "both_-5dB_seed1", "sound_-5dB_seed0"]
    assert len(found) == len(set(found)) == 8
    assert all_conditions(["both", "both"], [], [0, 1]) == (Condition("both"),)
    with pytest.raises(ValueError, match="at least one condition"):
        all_conditions([])


def test_the_segment_of_a_row_is_what_is_heard_of_it_and_what_it_lends(rows):
    part = dataclasses.replace(rows[0], segment=(0.5, 1.0))
    for clip in (Condition("sound").read(part), borrow_sound([part])[1]):
        assert len(clip.waveform) / clip.sampling_rate == pytest.approx(0.5, abs=0.05)


def test_equally_different_clips_lend_their_sound_by_chance():
    """Else the first clip of a split would lend its sound to all."""
    rows = [Row(str(i), Path(str(i)), (Question(str(i), "who?", str(i), "x"),)) for i in range(40)]
    first, second = ([partners[0] for partners in swap_partners(rows, seed=seed)] for seed in (0, 1))
    assert first != second and len(set(first)) > 10
