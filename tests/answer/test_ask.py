"""`ask` and `info`: everything promised is said, bad input is refused, sound is never dropped silently."""

import json

import pytest
from clips import write_clip

from mirasol.answer.ask import ask, ask_all
from mirasol.evaluate.attribution import measure_attribution
from mirasol.report.info import ClipInfo, PresetInfo, checkpoint_info, clip_info, info
from mirasol.tasks import get_task


@pytest.fixture(scope="module")
def clip(grid_root):
    return get_task("grid").load(grid_root, "test")[0].media


def test_the_answer_says_what_it_was_made_of(untrained, clip):
    answer = ask(clip, "which color is named?", untrained)
    assert 0 < answer.confidence <= 1
    assert answer.seconds_covered == pytest.approx(3.0, abs=0.02)
    assert answer.sound == "used"
    assert len(answer.attributed_to) == 3
    assert all(0 <= e.start < e.end <= answer.seconds for e in answer.attributed_to)
    fields = {"answer", "confidence", "attributed_to", "sound", "warnings"}
    assert set(json.loads(json.dumps(answer.as_dict()))) >= fields
    for part in ("confidence", "covered", "sound", "attribution"):
        assert part in str(answer)


def test_an_answer_below_the_asked_confidence_is_marked_as_withheld(answerer, clip):
    plain = ask(clip, "what is said?", answerer=answerer)
    for below, abstained in ((plain.confidence - 0.01, False), (plain.confidence + 0.01, True)):
        found = ask(clip, "what is said?", answerer=answerer, abstain_below=below)
        assert found.abstained is abstained and ("not sure enough" in str(found)) is abstained
        assert found.answer == plain.answer  # the likeliest stays, for those who want it


def test_sound_that_is_left_out_is_reported(answerer, clip):
    answer = ask(clip, "what is said?", use_audio=False, answerer=answerer)
    assert answer.sound == "found, not used"
    assert not any("it is not used" in warning for warning in answer.warnings), "it was left out on purpose"
    assert answer.attribution_method == "attention" and "[by cross-attention to each chunk]" in str(answer)


def test_bytes_are_answered_like_the_file_they_come_from(answerer, clip):
    from_file = ask(clip, "what is said?", answerer=answerer)
    from_bytes = ask(clip.read_bytes(), "what is said?", answerer=answerer)
    assert (from_file.answer, from_file.confidence) == (from_bytes.answer, from_bytes.confidence)


def test_another_square_of_the_picture_can_be_looked_at(answerer, clip):
    own = answerer.processor.image_processor.crop
    crops = (None, own, [0.3], [0.3, 0.5, 0.5])
    sure = [ask(clip, "what is said?", crop=crop, answerer=answerer).confidence for crop in crops]
    assert sure[0] == sure[1] != sure[2] == sure[3]
    with pytest.raises(ValueError, match="found 2 numbers: give one or three"):
        ask(clip, "what is said?", crop=[0.3, 0.5], answerer=answerer)


def test_several_questions_are_answered_as_each_alone_and_seconds_and_sampling_are_chosen(answerer, untrained, clip):
    questions = ["what is said?", "which color is named?"]
    together = ask_all(clip, questions, answerer=answerer, start=0.5, end=2.5)
    assert [one.question for one in together.answers] == questions
    for one in together.answers:
        alone = ask(clip, one.question, answerer=answerer, start=0.5, end=2.5)
        assert (alone.answer, alone.seconds) == (one.answer, one.seconds) and one.seconds == pytest.approx(2, abs=0.05)
        assert alone.confidence == pytest.approx(one.confidence, abs=1e-5)
    assert "what is said?\n" in str(together) and "what is said?\n" not in str(ask_all(clip, questions[:1], untrained))
    short = ask(clip, questions[0], untrained, sampling="snippets", max_chunks=2)
    assert short.seconds_covered == pytest.approx(0.64, abs=0.01)
    half = ask(clip, questions[0], untrained, dtype="bfloat16", device="cpu")
    assert half.confidence != ask(clip, questions[0], untrained).confidence
    with pytest.raises(TypeError, match="startt"):
        ask(clip, questions[0], untrained, startt=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:77"}, "device of this machine .* found 'cuda:77'"),
        ({"dtype": "int8"}, "dtype to be one of float32, bfloat16, float16, found 'int8'"),
        ({"sampling": "sparse"}, "sparse"),
        ({"start": 2, "end": 1}, "start from 0 s on and a later end, found 2 s to 1 s"),
        ({"use_audio": False, "use_video": False}, "--no-video, --no-audio"),
    ],
)
def test_options_that_cannot_be_are_refused(untrained, clip, options, message):
    with pytest.raises(ValueError, match=message):
        ask(clip, "what is said?", untrained, **options)


def test_options_of_loading_are_refused_beside_a_loaded_answerer(answerer, untrained, clip):
    with pytest.raises(ValueError, match="found an answerer and checkpoint: load it with these"):
        ask(clip, "what is said?", untrained, answerer=answerer)
    with pytest.raises(ValueError, match="found an answerer and device, dtype: load it with these"):
        ask(clip, "what is said?", answerer=answerer, dtype="bfloat16", device="cpu")


def test_words_without_quotes_are_not_taken_for_questions(clip):
    with pytest.raises(ValueError, match="found 'which', 'color', 'is': put each in quotes"):
        ask_all(clip, ["which", "color", "is"])


def test_a_question_unlike_training_is_warned_of_in_the_answer(clip):
    assert "'animal' is in none" in ask(clip, "what animal is it?").warnings[0]
    assert not ask(clip, "which color is named?").warnings


def test_bad_questions_and_clips_are_refused(answerer, untrained, tmp_path):
    with pytest.raises(ValueError, match="Expected a question"):
        ask("clip.mp4", " ", untrained)
    with pytest.raises(ValueError, match=r"missing\.mp4"):
        ask(tmp_path / "missing.mp4", "what is said?", answerer=answerer)


def test_a_question_longer_than_the_context_is_refused(answerer, clip):
    with pytest.raises(ValueError, match="context of"):
        ask(clip, "which color is named? " * 200, answerer=answerer)


def test_info_of_a_clip_names_its_tracks(clip):
    facts = info(clip).as_dict()
    assert facts["picture"]["video_codec"] == "h264"
    assert facts["sound"]["audio_sampling_rate"] == 16_000
    assert clip_info(str(clip)).as_dict() == {**facts, "clip": str(clip)}
    assert facts["picture"]["pixel_aspect"] == 1.0
    text = str(info(clip))
    assert "num_chunks" in text and "pixel_aspect" in text and "schema_version" not in text


def test_info_is_typed_and_says_what_is_not_found(repository):
    described = info(repository / "data" / "clips" / "helicopter_noaudio.mp4")
    assert isinstance(described, ClipInfo) and described.sound is None and described.picture.width > 0
    assert "sound      not found" in str(described)
    assert ClipInfo.model_validate_json(described.as_json()) == described
    assert isinstance(info("nano"), PresetInfo)


def test_info_of_a_checkpoint_counts_every_parameter_and_sees_every_frame(untrained, loaded):
    facts = checkpoint_info(untrained).as_dict()
    parts = dict(facts["parameters"])
    total = parts.pop("total")
    assert total == sum(parts.values()) == sum(p.numel() for p in loaded[0].parameters())
    assert len(facts["area_seen_per_frame"]) == 8
    assert facts["grid"]["seconds_per_chunk"] == 0.32


def test_resting_places_of_right_answers_are_counted(answerer, grid_root):
    share = measure_attribution(answerer, get_task("grid").load(grid_root, "test")[:1], progress=False)
    assert (share.method, share.share.num_clips) == ("attention", 1) and 0 <= share.num_answers <= 6
    assert "uniformly" in str(share)


def test_another_sound_track_or_decoder_is_refused_by_name(answerer, untrained, clip):
    with pytest.raises(ValueError, match="number or language of a sound track, found 'fr'"):
        ask(clip, "what is said?", audio_stream="fr", answerer=answerer)
    with pytest.raises(ValueError, match="decoder to be one of .*'opencv'"):
        ask(clip, "what is said?", untrained, decoder="opencv")


def test_info_says_the_shape_of_pixels_and_what_cannot_be_believed(tmp_path):
    part = write_clip(tmp_path / "part.ts", seconds=1.0)
    part.write_bytes(part.read_bytes() * 2)
    assert info(part).picture.pixel_aspect == 1.0
    assert "clock restarts" in str(info(part))
