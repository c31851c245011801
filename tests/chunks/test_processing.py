"""The processor: what reaches the model from clips of every kind."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from clips import write_clip
from PIL import Image

from mirasol.chunks import processing_mirasol
from mirasol.chunks.sound import _first_samples
from mirasol.chunks.sources import clip_from_frames, with_waveform
from mirasol.features import MirasolVideoProcessor
from mirasol.media import WHOLE, Clip

TIMES = np.arange(75) / 25
WRONG_TIMES = [  # one too few, equal ones, one before its predecessor, before 0, and not numbers
    TIMES[:74],
    np.zeros(75),
    TIMES[::-1].copy(),
    TIMES - 0.1,
    np.where(TIMES == 0.4, np.nan, TIMES),
    np.where(TIMES == 2.96, np.inf, TIMES),
]
CHUNK_INPUTS = ["pixel_values_videos", "input_features", "video_chunk_mask", "audio_chunk_mask", "chunk_times"]


def test_three_seconds_give_ten_chunks(processor, make_clip, shown):
    item = processor.chunk_clip(make_clip())
    assert item["pixel_values_videos"].shape == (10, 8, 3, 13, 13)
    assert item["input_features"].shape == (10, 32, 17)
    assert item["video_chunk_mask"].all() and item["audio_chunk_mask"].all()
    torch.testing.assert_close(item["chunk_times"][-1], torch.tensor([2.88, 3.2]))
    pictures = shown(item["pixel_values_videos"])
    assert pictures[0] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert pictures[9] == [72, 73, 74, 74, 74, 74, 74, 74]


def test_late_sound_and_early_picture_end_are_masked(processor, make_clip, shown):
    clip = make_clip(seconds=1.0, sound=(0.7, 2.0))
    item = processor.chunk_clip(clip)
    assert item["video_chunk_mask"].tolist() == [True, True, True, True, False, False, False]
    assert item["audio_chunk_mask"].tolist() == [False, False, True, True, True, True, True]
    assert shown(item["pixel_values_videos"])[3] == [24] * 8
    assert not item["pixel_values_videos"][4:].any()
    assert not item["input_features"][:2].any()
    # 0.7 s is column 6 of chunk 2; before it there is silence, not absence.
    assert (item["input_features"][2, :6] == processor.feature_extractor.floor).all()
    assert (item["input_features"][2, 6:] > processor.feature_extractor.floor).all()


def test_latest_chunk_without_content_is_left_out(processor, make_clip):
    clip = replace(make_clip(seconds=0.32, sound=(0.0, 0.325)), duration=0.325)  # 5 ms of sound in the second chunk
    assert len(processor.chunk_clip(clip)["chunk_times"]) == 1


@pytest.mark.parametrize(
    "clip_options", [{}, {"sound": None}, {"picture": False}, {"seconds": 1.1, "sound": (0.0, 0.4)}]
)
def test_item_alone_equals_item_in_a_batch(processor, make_clip, clip_options):
    alone = processor.chunk_clip(make_clip(**clip_options))
    batch = processor(videos=[make_clip(seconds=4.1, sound=(0.0, 4.0), seed=1), make_clip(**clip_options)])
    chunks = len(alone["chunk_times"])
    for name in CHUNK_INPUTS:
        assert torch.equal(batch[name][1, :chunks], alone[name]), name
        assert not batch[name][1, chunks:].any(), name


def test_absent_equals_masked(processor, make_clip):
    both, silent = make_clip(), make_clip(sound=None)
    with pytest.warns(UserWarning, match="has sound, but it is not used"):
        masked = processor(videos=both, use_audio=False)
    absent = processor(videos=silent)
    for name in CHUNK_INPUTS:
        assert torch.equal(masked[name], absent[name]), name
    masked = processor(videos=both, use_video=False)
    absent = processor(videos=replace(both, frames=None, frame_times=None))
    for name in CHUNK_INPUTS:
        assert torch.equal(masked[name], absent[name]), name


def test_silence_is_sound(processor, make_clip):
    clip = make_clip()
    clip.waveform[:] = 0
    item = processor.chunk_clip(clip)
    assert item["audio_chunk_mask"].all()
    assert (item["input_features"] == processor.feature_extractor.floor).all()
    report = processor.chunk_and_describe(clip)[1]
    assert report.is_silent and report.sound == "silent" and "it is silent" in report.warnings[-1]
    report = processor.chunk_and_describe(clip, use_audio=False)[1]
    assert report.sound == "found, not used" and not any("it is silent" in text for text in report.warnings)


@pytest.mark.parametrize("policy", ["snippets", "dense"])
@pytest.mark.parametrize("seconds", [0.04, 2.0, 5.12])
def test_policies_agree_up_to_the_budget(processor, make_clip, policy, seconds):
    clip = make_clip(seconds=seconds, sound=(0.0, seconds))
    expected = processor.chunk_clip(clip, sampling="uniform")
    item = processor.chunk_clip(clip, sampling=policy)
    assert all(torch.equal(item[name], expected[name]) for name in CHUNK_INPUTS)


def test_long_clip_by_policy(processor, make_clip, shown):
    clip = make_clip(seconds=6.4, sound=(0.0, 6.4))
    uniform, snippets, dense = (
        processor.chunk_clip(clip, sampling=policy, max_chunks=5) for policy in ("uniform", "snippets", "dense")
    )
    assert shown(uniform["pixel_values_videos"])[1] == [32, 36, 40, 44, 48, 52, 56, 60]
    assert shown(snippets["pixel_values_videos"])[1] == [44, 45, 46, 47, 48, 49, 50, 51]
    assert len(dense["chunk_times"]) == 20
    assert uniform["input_features"].shape == snippets["input_features"].shape == (5, 32, 17)


def test_uniform_warns_above_four_columns_into_one(processor, make_clip):
    with pytest.warns(UserWarning, match="averages 4.2 mel frames .* into one.*pass sampling='snippets'"):
        processor(videos=make_clip(seconds=6.7, sound=(0.0, 6.7)), max_chunks=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor(videos=make_clip(seconds=6.4, sound=(0.0, 6.4)), max_chunks=5)
        processor(videos=make_clip(seconds=6.7, sound=(0.0, 6.7)), max_chunks=5, sampling="snippets")
        processor(videos=make_clip(seconds=6.7, sound=None), max_chunks=5)


@pytest.mark.parametrize("boundary", [1, 4, 9])
def test_chunks_ignore_later_media(processor, make_clip, boundary):
    """Frames and sound from the start of chunk `boundary` on are changed; the chunks before are equal to the bit."""
    clip, other = make_clip(), make_clip(seed=1)
    other.frames[:] = clip.frames
    other.frames[8 * boundary :] = 255 - clip.frames[8 * boundary :]
    other.waveform[: 5_120 * boundary] = clip.waveform[: 5_120 * boundary]
    before, after = processor.chunk_clip(clip), processor.chunk_clip(other)
    for name in ("pixel_values_videos", "input_features"):
        assert torch.equal(before[name][:boundary], after[name][:boundary])
        assert not torch.equal(before[name][boundary], after[name][boundary])


def test_grid_offset_moves_pictures_and_sound_together(processor, make_clip, shown):
    clip = make_clip()
    offset = processor.chunk_clip(clip, grid_offset_seconds=0.2)
    assert len(offset["chunk_times"]) == 10  # 3.2 s
    torch.testing.assert_close(offset["chunk_times"][0], torch.tensor([-0.2, 0.12]))
    assert shown(offset["pixel_values_videos"])[0] == [0, 0, 0, 0, 0, 0, 1, 2]
    plain = processor.chunk_clip(clip)
    torch.testing.assert_close(offset["input_features"][0, 20:], plain["input_features"][0, :12], atol=1e-5, rtol=0)


def test_spec_augment_sees_the_whole_clip_and_masks_stay(processor, make_clip):
    seen = []
    clip = make_clip(seconds=2.0, sound=(0.0, 1.0))
    item = processor.chunk_clip(clip, spec_augment=lambda features: seen.append(features.shape) or features + 1)
    plain = processor.chunk_clip(clip)
    assert seen == [(7, 32, 17)]
    assert torch.equal(item["input_features"][:4], plain["input_features"][:4] + 1)
    assert not item["input_features"][4:].any()


def test_frames_of_the_right_size_need_no_resize(processor, make_clip):
    clip = make_clip()
    small = replace(clip, frames=np.ascontiguousarray(clip.frames[:, 2:15, 3:16]))
    assert torch.equal(
        processor.chunk_clip(small, do_resize=False)["pixel_values_videos"],
        processor.chunk_clip(clip)["pixel_values_videos"],
    )
    with pytest.raises(ValueError, match="must be 13 x 13 pixels, but these are 17 x 19: resize them"):
        processor.chunk_clip(clip, do_resize=False)


def test_a_clip_may_say_which_square_of_it_is_looked_at(processor, make_clip):
    clip = make_clip(0.64)
    clip.frames[:] = np.random.default_rng(0).integers(256, size=clip.frames.shape)
    corner = replace(clip, crop=(0.5, 0.0, 0.0))
    side = round(0.5 * min(clip.frames.shape[1:3]))
    alone = replace(clip, frames=np.ascontiguousarray(clip.frames[:, :side, :side]), crop=WHOLE)
    shown, expected = (processor.chunk_clip(each)["pixel_values_videos"] for each in (corner, alone))
    assert torch.equal(shown, expected)
    assert not torch.equal(shown, processor.chunk_clip(clip)["pixel_values_videos"])


def test_inputs_stay_as_they_were(processor, make_clip):
    clip, same = make_clip(), make_clip()
    first, second = processor(text="what is said?", videos=clip), processor(text="what is said?", videos=clip)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert np.array_equal(clip.frames, same.frames) and np.array_equal(clip.waveform, same.waveform)


# ---- kinds of sources


def test_path_bytes_clip_and_arrays_give_the_same(processor, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", seconds=1.3, size=(38, 34))
    expected = processor(videos=path)
    clip = processor.read_clip(path)
    for source in (str(path), path.read_bytes(), clip):
        inputs = processor(videos=source)
        assert all(torch.equal(inputs[name], expected[name]) for name in CHUNK_INPUTS)
    arrays = processor(videos=clip.frames, frame_times=clip.frame_times, audio=clip.waveform, sampling_rate=16_000)
    for name in ("pixel_values_videos", "video_chunk_mask"):
        assert torch.equal(arrays[name], expected[name])


@pytest.mark.parametrize(
    "options", [{}, {"sampling": "uniform", "max_chunks": 3}, {"sampling": "snippets", "max_chunks": 2}]
)
def test_reading_only_the_wanted_frames_gives_the_same(processor, tmp_path, options):
    from mirasol.media import read_clip

    path = write_clip(tmp_path / "clip.mp4", seconds=2.6, fps=50, size=(38, 34))
    every, wanted = read_clip(path), processor.read_clip(path, **options)
    assert len(wanted.frames) < len(every.frames)
    full, sparse = processor.chunk_clip(every, **options), processor.chunk_clip(wanted, **options)
    assert all(torch.equal(full[name], sparse[name]) for name in CHUNK_INPUTS)


def test_batch_mixes_lengths_silent_clips_and_sound_alone(processor, make_clip):
    sound = make_clip(seconds=0.9, sound=(0.0, 0.9)).waveform
    batch = processor(
        text=["what is said?"] * 3,
        videos=[make_clip(), make_clip(seconds=1.0, sound=None), None],
        audio=[None, None, sound],
        sampling_rate=16_000,
    )
    assert batch["video_chunk_mask"].sum(1).tolist() == [10, 4, 0]
    assert batch["audio_chunk_mask"].sum(1).tolist() == [10, 0, 3]
    assert batch["pixel_values_videos"].shape[:2] == batch["input_features"].shape[:2] == (3, 10)


def test_audio_file_alone(processor, tmp_path):
    path = write_clip(tmp_path / "sound.wav", seconds=1.0)
    for inputs in (processor(videos=path), processor(audio=path)):
        assert inputs["audio_chunk_mask"].sum() == 4
        assert not inputs["video_chunk_mask"].any()


def test_sound_given_beside_frames_starts_at_zero(processor, make_clip):
    clip = make_clip()
    inputs = processor(videos=clip.frames, frame_rate=25.0, audio=clip.waveform, sampling_rate=16_000)
    expected = processor(videos=clip)
    assert all(torch.equal(inputs[name], expected[name]) for name in CHUNK_INPUTS)


def test_file_whose_sound_is_left_out_warns(processor, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", seconds=0.5)
    with pytest.warns(UserWarning, match="clip.mp4 has sound, but it is not used: pass use_audio=True"):
        processor(videos=path, use_audio=False)
    silent = write_clip(tmp_path / "mute.mp4", seconds=0.5, sound=False)
    with pytest.warns(UserWarning, match="clip.mp4 has sound of its own; the given audio replaces it"):
        processor(videos=path, audio=np.zeros(8_000, np.float32), sampling_rate=16_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor(videos=silent, use_audio=False)
        processor(videos=path)
        processor(videos=replace(processor.read_clip(path), warnings=["what the reader has told already"]))


def test_report_says_what_was_used(processor, make_clip):
    clip = make_clip(seconds=6.4, sound=(0.0, 6.4))
    report = processor.chunk_and_describe(clip)[1]
    assert (report.num_chunks, report.num_frames, report.num_frames_used) == (16, 160, 128)
    assert report.seconds_covered == pytest.approx(6.4)
    assert str(report) == "6.40 of 6.40 s covered by 16 chunks of 0.4 s; 128 frames used; sound used"
    report = processor.chunk_and_describe(clip, sampling="snippets", max_chunks=5)[1]
    assert report.seconds_covered == pytest.approx(1.6)
    report = processor.chunk_and_describe(clip, use_audio=False)[1]
    assert "sound found, not used" in str(report) and "warning: The clip has sound" in str(report)
    assert "sound not found" in str(processor.chunk_and_describe(make_clip(sound=None))[1])


# ---- errors


def test_wrong_inputs_are_refused_with_a_remedy(processor, make_clip):
    clip, frames, sound = make_clip(), make_clip().frames, make_clip().waveform
    cases = [
        ({}, "found none of them: pass at least one"),
        ({"videos": frames}, "Frames need their times in seconds, .*75 times or one rate"),
        ({"videos": frames[0], "frame_rate": 25.0}, r"\[frame, height, width, 3\], but these have \[17, 19, 3\]"),
        *(({"videos": frames, "frame_times": times}, "75 increasing seconds") for times in WRONG_TIMES),
        *(
            ({"videos": frames, "frame_rate": rate}, f"above 0 frames a second, but it is {rate}: pass one number")
            for rate in (0, -25.0, np.nan, np.inf, "25")
        ),
        ({"videos": frames, "frame_rate": 1e-6}, "1,000,000 chunks, but the duration of this one is 75000000.0 s"),
        (
            {"videos": [frames] * 2, "frame_times": [TIMES]},
            "list of 2 videos needs as many frame_times, but .* 1: pass",
        ),
        *(
            ({"videos": replace(clip, frame_times=times)}, "increasing seconds from 0 on, but they begin")
            for times in WRONG_TIMES[2:5]
        ),
        ({"videos": replace(clip, duration=np.nan)}, "duration of this one is nan s"),
        ({"videos": replace(clip, audio_start=np.nan)}, "duration=3.0 and audio_start=nan: set both"),
        ({"videos": replace(clip, duration=0.0)}, "duration .* is 0 s and the last frame is shown at 2.96 s: set"),
        ({"videos": replace(clip, duration=2.0)}, "duration .* is 2 s and the last frame is shown at 2.96 s"),
        ({"videos": frames / 255, "frame_rate": 25.0}, "uint8 with values 0 to 255, but these are float64"),
        ({"audio": sound[None].repeat(2, 0)}, r"\[sample\], but this one has \[2, 48000\]"),
        ({"audio": sound, "sampling_rate": 44_100}, "sampling_rate, 16000 Hz, but it is 44100 Hz: resample"),
        ({"audio": sound, "sampling_rate": None}, "it is not given: resample .* pass sampling_rate=16000"),
        ({"audio": sound * 32_768}, "divide samples in int16 range by 32768"),
        ({"videos": replace(clip, waveform=np.append(sound, np.nan))}, "holds nan at 3.000 s"),
        ({"videos": [clip, clip], "audio": [sound]}, "equally many, but there are 2 videos and 1 waveforms"),
        ({"videos": [None]}, "Clip 0 has neither video nor audio"),
        ({"videos": 7}, "but found a int: pass one of these"),
        ({"videos": clip, "use_audio": False, "use_video": False}, "at least one frame or 10 ms of sound"),
        ({"audio": sound[:100]}, "at least one frame or 10 ms of sound .* 100 samples"),
        ({"videos": clip, "sampling": "all"}, "one of uniform, snippets, dense, but it is 'all'"),
        ({"videos": clip, "images": frames[0]}, "Expected images or videos, but found both: pass them in two calls"),
        ({"images": [[frames[0], frames[1]]]}, "one picture a question, but found 2: pass them as a video"),
        ({"videos": clip, "return_tensors": "np"}, "must be 'pt', but it is 'np'"),
        ({"videos": [clip] * 2, "text": ["a"] * 3}, "there are 3 questions for 2 clips: pass one question for all"),
        ({"videos": clip, "text": [3]}, "text must be a string or a list of strings, but it holds a int: 3"),
        ({"videos": clip, "text": ["a", "b"], "answers": ["c"]}, "2 questions and 1 answers"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            processor(**({"sampling_rate": 16_000} | options))


def test_a_clip_without_its_duration_is_refused_where_it_is_cut(processor, make_clip):
    clip = make_clip()
    for cut in (processor.chunk_clip, processor.chunk_and_describe):
        with pytest.raises(ValueError, match="duration=0.0 .*: set both"):
            cut(Clip(clip.frames, clip.frame_times, None))


def test_a_list_of_numbers_is_one_waveform(processor, make_clip):
    sound = make_clip().waveform
    expected = processor(audio=sound, sampling_rate=16_000)
    for given in (sound.tolist(), [sound.tolist()], torch.from_numpy(sound)):
        inputs = processor(audio=given, sampling_rate=16_000)
        assert all(torch.equal(inputs[name], expected[name]) for name in CHUNK_INPUTS)


def test_sound_of_another_rate_in_a_clip_is_refused(processor, make_clip):
    clip = replace(make_clip(), sampling_rate=8_000)
    with pytest.raises(ValueError, match="16000 Hz, but this clip's sampling_rate is 8000 Hz: resample"):
        processor.chunk_clip(clip)


def test_cast_keeps_seconds_exact(processor, make_clip):
    inputs = processor(videos=make_clip())
    seconds = inputs["chunk_times"].clone()
    inputs = inputs.to(dtype=torch.bfloat16)
    assert inputs["pixel_values_videos"].dtype == torch.bfloat16
    assert inputs["chunk_times"].dtype == torch.float32 and torch.equal(inputs["chunk_times"], seconds)


def test_one_frame_is_a_clip(processor, make_clip):
    frames = make_clip().frames[:1]
    inputs = processor(videos=Clip(frames, np.array([0.0]), None, duration=0.04))
    assert inputs["video_chunk_mask"].tolist() == [[True]]
    assert inputs["pixel_values_videos"].shape == (1, 1, 8, 3, 13, 13)


# ---- sound and last frames in their place


def test_given_sound_starts_at_zero_whenever_that_of_the_video_did(processor, make_clip):
    late = make_clip(seconds=1.0, sound=(0.7, 1.0))
    given = make_clip(seconds=1.0, sound=(0.0, 1.0), seed=1)
    with pytest.warns(UserWarning, match="the given audio replaces it"):
        replaced = processor(videos=late, audio=given.waveform, sampling_rate=16_000)
    expected = processor.chunk_clip(given)
    assert all(torch.equal(replaced[name][0], expected[name]) for name in CHUNK_INPUTS)


@pytest.mark.parametrize(("times", "duration"), [([0.0, 0.1, 0.4], 0.7), ([0.2], 0.24)])
def test_the_last_frame_is_shown_as_long_as_the_one_before(times, duration):
    frames = np.zeros((len(times), 5, 7, 3), np.uint8)
    assert clip_from_frames(frames, frame_times=times).duration == pytest.approx(duration)


def test_a_chunk_reads_the_samples_nearest_to_its_own_second(make_processor, make_clip):
    """Chunks of 7.01 s / 3 begin between two samples: each start is rounded by itself, so that no error adds up."""
    plan = make_processor(max_chunks=3).grid.plan(7.01)
    firsts = _first_samples(plan, 0.0, 16_000).tolist()
    assert firsts == [0, 37_387, 74_773]  # 37,386.67 and 74,773.33
    assert _first_samples(plan, 0.50003, 16_000).tolist() == [-8_000, 29_387, 66_773]


# ---- frames cut as they are decoded


@pytest.mark.parametrize("size", [13, 40, 200])
@pytest.mark.parametrize("crop", [None, (0.4, 0.2, 0.9), (1.0, 0.5, 0.5)])
def test_frames_cut_as_they_are_decoded_give_the_pixels_of_whole_ones(make_processor, tmp_path, size, crop):
    processor = make_processor(max_chunks=3)
    processor.image_processor = MirasolVideoProcessor(size, crop_fraction=0.7, crop_center=(0.5, 0.6))
    path = write_clip(tmp_path / "clip.mp4", seconds=2.0)
    whole = processor.read_clip(path, crop=crop, do_resize=False)
    cut = processor.read_clip(path, crop=crop)
    assert whole.frames.shape[1:] != cut.frames.shape[1:] == (size, size, 3)
    assert whole.crop == crop and cut.crop == WHOLE
    first, second = processor.chunk_clip(whole), processor.chunk_clip(cut)
    assert all(torch.equal(first[name], second[name]) for name in CHUNK_INPUTS)


def test_a_crop_outside_the_frame_is_refused_before_anything_is_decoded(processor):
    with pytest.raises(ValueError, match="at most 1, but it is 1.2"):
        processor.read_clip("missing.mp4", crop=(1.2, 0.5, 0.5))


def test_a_clip_is_placed_once_a_call(processor, make_clip, monkeypatch):
    placed: list[Clip] = []
    place = processing_mirasol.place_clip

    def counted(clip, *rest):
        placed.append(clip)
        return place(clip, *rest)

    monkeypatch.setattr(processing_mirasol, "place_clip", counted)
    clips = [make_clip(), make_clip(seed=1)]
    processor(videos=clips)
    assert [id(clip) for clip in placed] == [id(clip) for clip in clips]
    inputs, _ = processor.chunk_and_describe(clips[0], max_chunks=4, use_audio=False)
    expected = processor.chunk_clip(clips[0], max_chunks=4, use_audio=False)
    assert all(torch.equal(inputs[name], expected[name]) for name in CHUNK_INPUTS)


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mpg", ".mp4"])
@pytest.mark.parametrize("track", ["video", "audio"])
def test_a_track_left_out_masked_or_taken_away_gives_the_same_chunks(tmp_path, make_processor, suffix, track):
    processor = make_processor()
    path = write_clip(tmp_path / f"a{suffix}", seconds=1.3, sound_start=0.2, sound_seconds=1.5)
    option = {f"use_{track}": False}
    clip = processor.read_clip(path)
    taken = {"video": {"frames": None, "frame_times": None}, "audio": {"waveform": None}}[track]
    taken_away = replace(clip, **taken)
    left_out = processor.chunk_clip(processor.read_clip(path, **option))
    masked = processor.chunk_clip(clip, **option)
    absent = processor.chunk_clip(taken_away)
    for name, value in left_out.items():
        assert torch.equal(masked[name], value), name
        assert torch.equal(absent[name], value), name
    assert not left_out[f"{track}_chunk_mask"].any()


def test_chunks_inside_a_gap_of_the_sound_are_masked_as_those_of_the_picture(tmp_path, processor):
    path = write_clip(tmp_path / "a.mkv", seconds=1.6, sound_gap=(0.3, 1.0))
    inputs = processor.chunk_clip(processor.read_clip(path))
    assert inputs["audio_chunk_mask"].tolist()[:5] == [True, False, False, True, True]
    assert not inputs["input_features"][2].any()
    assert inputs["video_chunk_mask"].all()


def test_the_processor_reads_with_its_decoder_and_a_chosen_sound_track(tmp_path, make_processor):
    path = write_clip(tmp_path / "a.mp4", seconds=0.4)
    with pytest.raises(ValueError, match='found "opencv"'):
        make_processor(decoder="opencv").read_clip(path)
    with pytest.raises(ValueError, match="audio_stream"):
        make_processor().read_clip(path, audio_stream=5)


def test_replaced_sound_keeps_no_gap_and_no_length_of_the_old_one(make_clip):
    clip = replace(make_clip(2.0), duration=9.0, video_end=2.0, audio_start=0.5, audio_gaps=[(0.5, 1.0)])
    with pytest.warns(UserWarning, match="replaces it"):
        swapped = with_waveform(clip, np.zeros(16_000, np.float32), 16_000)
    assert (swapped.audio_start, swapped.audio_gaps, swapped.duration) == (0.0, [], 2.0)
    assert swapped.video_end == 2.0


@pytest.mark.filterwarnings("ignore:.*replaces it")
@pytest.mark.parametrize("fact", [{"waveform": None}, {"video_end": None}])
def test_a_picture_alone_lasts_as_long_as_its_clip_when_it_gets_sound(make_clip, fact):
    picture = replace(make_clip(2.0), **{"video_end": 1.0, "duration": 1.5} | fact)
    assert with_waveform(picture, np.zeros(1_600, np.float32), 16_000).video_end == 1.5


def test_clips_padded_to_a_number_of_chunks_are_the_same_clips(processor, make_clip):
    clips = [make_clip(), make_clip(seconds=1.0, sound=(0.0, 1.0))]
    padded, bare = processor(videos=clips, num_chunks=13), processor(videos=clips)
    for name in CHUNK_INPUTS:
        assert torch.equal(padded[name][:, :10], bare[name]) and not padded[name][:, 10:].any()
        assert padded[name].shape[1] == 13
    with pytest.raises(ValueError, match="num_chunks=9, but one has 10 chunks"):
        processor(videos=clips, num_chunks=9)


def test_an_array_of_clips_and_a_list_of_pictures_are_the_clips_that_they_hold(processor):
    frames = np.random.default_rng(0).integers(0, 255, (2, 11, 17, 19, 3)).astype(np.uint8)
    expected = processor(videos=list(frames), frame_rate=25.0)["pixel_values_videos"]
    for videos in (frames, torch.from_numpy(frames)):
        assert torch.equal(processor(videos=videos, frame_rate=25.0)["pixel_values_videos"], expected)
    for pictures in (list(frames[0]), [Image.fromarray(each) for each in frames[0]]):
        found = processor(videos=pictures, frame_rate=25.0)["pixel_values_videos"]
        assert torch.equal(found, expected[:1])
        times = processor(videos=pictures, frame_times=[number / 25 for number in range(11)])
        assert torch.equal(times["pixel_values_videos"], expected[:1])
    times = [np.arange(11) / 25] * 2
    assert torch.equal(processor(videos=frames, frame_times=times)["pixel_values_videos"], expected)
    with pytest.raises(ValueError, match="must have one size"):
        processor(videos=[frames[0, 0], frames[0, 0, 1:]], frame_rate=25.0)
