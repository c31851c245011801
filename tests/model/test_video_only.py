"""A video-only model: the same recipe with the sound off."""

import pytest
import torch

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from tests.model.tiny import LATENTS, media, questions, tiny_config, tiny_model

SILENT = {"use_audio": False, "audio_weight": 0.0}


def picture(**changes):
    """Clips without sound, as the processor gives them: zeros, and masks that are False."""
    clips = media()
    clips["input_features"] = torch.zeros_like(clips["input_features"])
    clips["audio_chunk_mask"] = torch.zeros_like(clips["audio_chunk_mask"])
    return clips | changes


def without_audio_inputs(clips):
    return {key: value for key, value in clips.items() if key not in ("input_features", "audio_chunk_mask")}


def test_keys_are_a_subset_of_the_audio_visual_model():
    both, silent = tiny_model().state_dict(), tiny_model(**SILENT).state_dict()

    missing = set(both) - set(silent)
    assert set(silent) < set(both)
    assert {name.split(".")[2] for name in missing} == {"audio_encoder", "combiner", "next_chunk"}
    assert all("audio" in name for name in missing)


def test_its_slots_are_those_of_video():
    config = tiny_config(**SILENT)
    assert (tiny_config().slot_sizes, config.slot_sizes) == ((16, 6), (16, 0))
    with pytest.raises(Exception, match="num_latents=17 and 16 slots"):
        tiny_config(**SILENT, combiner_config={"num_latents": 17})


def test_sound_is_refused_and_silence_is_not(unchecked):
    model = tiny_model(**SILENT)
    clips = picture()
    clips["audio_chunk_mask"][0, 1:4] = True

    with pytest.raises(ValueError, match="sound in 3 of 10 chunks.*use_audio=False to the processor"):
        model(**clips, **questions())
    with torch.no_grad():
        silent = model(**picture(), **questions())
        absent = model(**without_audio_inputs(picture()), **questions())
    assert torch.equal(silent.logits, absent.logits)
    assert silent.encoder_outputs.last_hidden_state.shape[1] == 5 * LATENTS


def test_model_that_hears_still_needs_the_sound(unchecked):
    with pytest.raises(ValueError, match="found no input_features, audio_chunk_mask"):
        tiny_model()(**without_audio_inputs(media()), **questions())


def test_weight_of_a_loss_that_it_does_not_have_is_refused():
    with pytest.raises(Exception, match="audio_weight=0.5 and use_audio=False. Set audio_weight=0"):
        tiny_config(use_audio=False)


def test_every_parameter_learns():
    model = tiny_model(**SILENT).train()
    clips = picture()
    clips["video_chunk_mask"][0, ::2] = False
    output = model(**clips, **questions())
    output.loss.backward()

    assert output.audio_loss is None
    torch.testing.assert_close(output.loss, 10 * output.text_loss + output.latent_loss + output.video_loss)
    silent_chunk = {"model.encoder.combiner.missing_embedding"}  # masked as a key, and such a chunk's output is unread
    assert {name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0} <= silent_chunk


def test_it_comes_back_bit_for_bit_and_answers(tmp_path):
    model = tiny_model(**SILENT)
    model.save_pretrained(tmp_path)
    again = MirasolForConditionalGeneration.from_pretrained(tmp_path)

    assert again.config.use_audio is False
    text = questions()["decoder_input_ids"]
    with torch.no_grad():
        expected = model(**picture(), decoder_input_ids=text).logits
        assert torch.equal(again(**picture(), decoder_input_ids=text).logits, expected)
        ids = again.generate(**picture(), decoder_input_ids=text, max_new_tokens=3, do_sample=False)
    assert ids.shape[1] > text.shape[1]
