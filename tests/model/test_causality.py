"""What comes later never changes what was known before, bit for bit; all that comes now does."""

import pytest
import torch

from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.modeling_mirasol_encoders import covered_area
from mirasol.model.presets import preset
from tests.model.tiny import CHUNKS, MANY_CHUNKS, TOKENS, enliven, media, questions, tiny_model

MODALITIES = ["pixel_values_videos", "input_features"]


def encode(model, clips):
    with torch.no_grad():
        output = model.get_encoder()(**clips)
    batch, chunks = clips["video_chunk_mask"].shape
    latents = output.last_hidden_state.reshape(batch, chunks, model.config.num_latents, -1)
    return latents, output


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize(("chunks", "now"), [(CHUNKS, 1), (CHUNKS, CHUNKS - 1), (MANY_CHUNKS, 7), (MANY_CHUNKS, 21)])
def test_latents_ignore_future_media(modality, chunks, now):
    model = tiny_model()
    clips = media(chunks=chunks)
    changed = dict(clips, **{modality: clips[modality].clone()})
    changed[modality][:, now:] += torch.randn_like(changed[modality][:, now:])

    (before, known), (after, known_after) = encode(model, clips), encode(model, changed)

    assert torch.equal(before[:, :now], after[:, :now])
    assert torch.equal(known.predicted_features[:, :now], known_after.predicted_features[:, :now])
    assert torch.equal(known.surprise[:, :now], known_after.surprise[:, :now])
    differs = (before != after).flatten(2).any(dim=-1)
    assert differs[:, now:].all()


@pytest.mark.parametrize("modality", MODALITIES)
def test_latents_remember_past_media(modality):
    model = tiny_model()
    clips = media(chunks=MANY_CHUNKS)
    changed = dict(clips, **{modality: clips[modality].clone()})
    changed[modality][:, 2] += 1.0

    difference = (encode(model, clips)[0] - encode(model, changed)[0]).abs().amax(dim=(-1, -2))

    assert torch.equal(difference[:, :2], torch.zeros_like(difference[:, :2]))
    assert (difference[:, 2:] > 0).all()


@pytest.mark.parametrize("mask", ["video_chunk_mask", "audio_chunk_mask"])
def test_latents_ignore_whether_the_future_is_missing(mask):
    model = tiny_model()
    clips = media()
    changed = dict(clips, **{mask: clips[mask].clone()})
    changed[mask][:, 3:] = False

    before, after = encode(model, clips)[0], encode(model, changed)[0]

    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).flatten(2).any(dim=-1).all()


def test_logits_ignore_later_words():
    model = tiny_model()
    text = questions()["decoder_input_ids"]
    changed = text.clone()
    changed[:, 6:] = (changed[:, 6:] + 5) % 30 + 3

    with torch.no_grad():
        before = model(**media(), decoder_input_ids=text).logits
        after = model(**media(), decoder_input_ids=changed).logits

    assert before.shape[1] == TOKENS
    assert torch.equal(before[:, :6], after[:, :6])
    assert (before[:, 6:] != after[:, 6:]).any(dim=-1).all()


@pytest.fixture(scope="module")
def nano():
    return enliven(MirasolForConditionalGeneration(preset("nano"))).eval()


def nano_clips(config, batch):
    """The same two chunks in each row."""
    generator = torch.Generator().manual_seed(0)
    size, chunks = config.image_size, 2
    frames = torch.randn(1, chunks, config.num_frames_per_chunk, 3, size, size, generator=generator)
    mel = torch.randn(1, chunks, config.num_mel_frames_per_chunk, config.num_mel_bins, generator=generator)
    real = torch.ones(batch, chunks, dtype=torch.bool)
    times = torch.tensor([[0.0, 0.32], [0.32, 0.64]]).expand(batch, -1, -1)
    return {
        "pixel_values_videos": frames.repeat(batch, 1, 1, 1, 1, 1),
        "input_features": mel.repeat(batch, 1, 1, 1),
        "video_chunk_mask": real,
        "audio_chunk_mask": real,
        "chunk_times": times,
    }


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_frame_and_each_mel_column_of_nano_changes_its_chunk(nano, modality):
    count = {
        "pixel_values_videos": nano.config.num_frames_per_chunk,
        "input_features": nano.config.num_mel_frames_per_chunk,
    }[modality]
    clips = nano_clips(nano.config, count + 1)
    for position in range(count):
        clips[modality][position, 1, position] += 1.0  # the last row stays as it was

    latents = encode(nano, clips)[0]

    assert clips[modality].shape[2] == count
    difference = (latents[:count] - latents[count]).abs().amax(dim=(-1, -2))
    assert torch.equal(difference[:, 0], torch.zeros(count))
    assert (difference[:, 1] > 1e-3).all()


def test_nano_sees_nine_tenths_of_every_frame(nano):
    area = covered_area(nano.config.video_config)

    assert len(area) == 8
    assert min(area) >= 0.9
