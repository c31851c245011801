"""Every loss, recomputed with plain loops over single numbers."""

from math import exp, log, sqrt

import pytest
import torch

from mirasol.model.modeling_mirasol_losses import (
    cosine_loss,
    reconstruction_loss,
    small_audio,
    small_video,
    spread_losses,
)
from tests.model.tiny import BATCH, CHUNKS, LATENTS, TOKENS, VOCAB, media, questions, tiny_config, tiny_model

FIRST, SECOND = [True, True, True, False, True], [False, True, True, True, True]  # one gap, one late start
MASK = torch.tensor([FIRST, SECOND])
PAIRS = [(0, 0), (0, 1), (1, 1), (1, 2), (1, 3)]  # (clip, chunk) of which the next chunk is real too


def test_cosine_loss_by_hand():
    predicted, target = torch.randn(BATCH, CHUNKS, 3, 7), torch.randn(BATCH, CHUNKS, 3, 7)

    terms = []
    for clip, chunk in PAIRS:
        for latent in range(3):
            p, t = predicted[clip, chunk, latent].tolist(), target[clip, chunk + 1, latent].tolist()
            dot = sum(a * b for a, b in zip(p, t, strict=True))
            terms.append(1 - dot / sqrt(sum(a * a for a in p) * sum(b * b for b in t)))

    assert cosine_loss(predicted, target, MASK).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_spread_losses_by_hand():
    combined = 0.5 * torch.randn(BATCH, CHUNKS, 3, 7)
    real = [combined[clip, chunk].tolist() for clip in range(2) for chunk in range(CHUNKS) if MASK[clip, chunk]]
    mean = [[sum(chunk[slot][d] for chunk in real) / len(real) for d in range(7)] for slot in range(3)]

    lacks = []
    for slot in range(3):
        for d in range(7):
            variance = sum((chunk[slot][d] - mean[slot][d]) ** 2 for chunk in real) / (len(real) - 1)
            lacks.append(max(0.0, 0.5 - sqrt(variance + 1e-4)))

    total = 0.0
    for i in range(7):
        for j in range(7):
            if i != j:
                products = [
                    (chunk[slot][i] - mean[slot][i]) * (chunk[slot][j] - mean[slot][j])
                    for chunk in real
                    for slot in range(3)
                ]
                total += (sum(products) / (len(products) - 1)) ** 2

    variance_loss, covariance_loss = spread_losses(combined, MASK)
    assert variance_loss.item() == pytest.approx(sum(lacks) / len(lacks), rel=1e-4)
    assert covariance_loss.item() == pytest.approx(total / 7, rel=1e-4)


def test_small_video_and_audio_by_hand():
    pixels, mel = torch.randn(1, 2, 4, 3, 6, 9), torch.randn(1, 2, 8, 6)
    video, audio = small_video(pixels, (2, 3, 3)), small_audio(mel, (4, 2))

    assert video.shape == (1, 2, 2, 3, 3, 3)
    for frame in range(2):
        for row in range(3):
            for column in range(3):
                block = pixels[0, 1, 2 * frame : 2 * frame + 2, 2, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
                values = block.flatten().tolist()
                assert video[0, 1, frame, 2, row, column].item() == pytest.approx(sum(values) / 12, abs=1e-6)
    assert audio.shape == (1, 2, 4, 2)
    values = mel[0, 1, 2:4, 3:6].flatten().tolist()
    assert audio[0, 1, 1, 1].item() == pytest.approx(sum(values) / 6, abs=1e-6)


def test_reconstruction_loss_by_hand():
    predicted, target = torch.randn(BATCH, CHUNKS, 2, 3, 5), torch.randn(BATCH, CHUNKS, 2, 3, 5)

    terms = []
    for clip, chunk in PAIRS:
        p, t = predicted[clip, chunk].flatten().tolist(), target[clip, chunk + 1].flatten().tolist()
        terms.append(sum((a - b) ** 2 for a, b in zip(p, t, strict=True)) / len(p))

    assert reconstruction_loss(predicted, target, MASK).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_losses_without_a_pair_are_zero():
    values, alone = torch.randn(BATCH, CHUNKS, 3, 7), torch.zeros(BATCH, CHUNKS, dtype=torch.bool)
    alone[:, 2] = True

    assert cosine_loss(values, values, alone) == 0
    assert reconstruction_loss(values, 1 - values, alone) == 0
    assert cosine_loss(values[:, :1], values[:, :1], alone[:, 2:3]) == 0
    assert all(loss == 0 for loss in spread_losses(values[:1], alone[:1]))


@pytest.fixture(scope="module")
def output():
    """A model, its inputs and its output on clips with a gap and a late start."""
    model = tiny_model(text_weight=3.0, latent_weight=0.7, video_weight=1.3, audio_weight=0.4)
    clips, text = media(), questions()
    clips["video_chunk_mask"], clips["audio_chunk_mask"] = MASK, MASK.flip(0)
    with torch.no_grad():
        return model, clips, text, model(**clips, **text)


def test_text_loss_by_hand(output):
    """Position i predicts label i: the labels come shifted, and only words of the answer count."""
    model, clips, text, found = output
    terms = []
    for row in range(BATCH):
        for position in range(TOKENS):
            label = int(text["labels"][row, position])
            if label != -100:
                logits = found.logits[row, position].tolist()
                terms.append(log(sum(exp(value) for value in logits)) - logits[label])

    assert len(terms) == BATCH * (TOKENS - TOKENS // 2)
    assert found.logits.shape == (BATCH, TOKENS, VOCAB)
    assert found.text_loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_labels_alone_are_read_shifted_to_the_right(output):
    model, clips, text, _ = output
    labels = text["decoder_input_ids"].clone()
    labels[:, -3:] = -100
    shifted = torch.cat([torch.full((BATCH, 1), 1), labels[:, :-1]], dim=1)
    shifted[shifted == -100] = 0

    with torch.no_grad():
        found, expected = model(**clips, labels=labels), model(**clips, decoder_input_ids=shifted, labels=labels)

    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)


def test_next_chunk_losses_are_those_of_the_model_outputs(output):
    model, clips, _, found = output
    encoder, heads = found.encoder_outputs, model.model.encoder.next_chunk
    latents = encoder.last_hidden_state.reshape(BATCH, CHUNKS, LATENTS, -1)
    variance_loss, covariance_loss = spread_losses(
        encoder.combined_features, torch.ones_like(MASK)
    )  # no chunk lacks both
    cosine = cosine_loss(encoder.predicted_features, encoder.combined_features, MASK | MASK.flip(0))
    video = small_video(clips["pixel_values_videos"], (1, 5, 2))
    audio = small_audio(clips["input_features"], (7, 1))

    assert (MASK | MASK.flip(0)).all()
    torch.testing.assert_close(found.latent_loss, cosine + 1.0 * variance_loss + 0.04 * covariance_loss)
    torch.testing.assert_close(found.video_loss, reconstruction_loss(heads.predict_video(latents), video, MASK))
    torch.testing.assert_close(
        found.audio_loss, reconstruction_loss(heads.predict_audio(latents), audio, MASK.flip(0))
    )


def test_heads_predict_in_the_layout_of_their_targets():
    """What the video head learns of one pixel of the small next chunk stands where that pixel stands."""
    model = tiny_model()
    heads = model.model.encoder.next_chunk
    latents = torch.randn(BATCH, CHUNKS, LATENTS, 20)

    video, audio = heads.predict_video(latents), heads.predict_audio(latents)

    assert video.shape == small_video(media()["pixel_values_videos"], heads.video_size).shape
    assert audio.shape == small_audio(media()["input_features"], heads.audio_size).shape


def test_loss_is_the_weighted_sum(output):
    found = output[3]
    expected = 3.0 * found.text_loss + 0.7 * found.latent_loss + 1.3 * found.video_loss + 0.4 * found.audio_loss

    torch.testing.assert_close(found.loss, expected)
    assert min(found[name].item() for name in ("text_loss", "latent_loss", "video_loss", "audio_loss")) > 0


def test_clips_watched_before_give_the_text_loss_only(output):
    model, clips, text, expected = output
    with torch.no_grad():
        found = model(encoder_outputs=expected.encoder_outputs, **text)

    assert torch.equal(found.text_loss, expected.text_loss)
    torch.testing.assert_close(found.loss, 3.0 * found.text_loss)
    assert found.latent_loss is found.video_loss is found.audio_loss is None


def test_objective_sets_the_weights():
    model = tiny_model()
    for objective, weights in {"pretrain": (1.0, 1.0, 1.0), "finetune": (10.0, 1.0, 1.0)}.items():
        model.set_objective(objective)
        config = model.config
        assert (config.text_weight, config.latent_weight, config.video_weight) == weights
        assert config.audio_weight == 0.5  # as it was

    with torch.no_grad():
        output = model(**media(), **questions())
    expected = 10 * output.text_loss + output.latent_loss + output.video_loss + 0.5 * output.audio_loss
    torch.testing.assert_close(output.loss, expected)


def test_unknown_objective_names_the_known_ones():
    with pytest.raises(ValueError, match="finetune.*pretrain.*found 'prettrain'"):
        tiny_config().set_objective("prettrain")


def test_predicted_video_and_audio_are_laid_out_as_their_targets():
    """Frame by frame, channel by channel, row by row; column by column of the log-mel, band by band."""
    heads = tiny_model(
        temporal_config={"predicted_video_size": (3, 5, 2), "predicted_audio_size": (7, 5)}
    ).model.encoder.next_chunk
    latents = torch.randn(2, 4, LATENTS, 20)
    with torch.no_grad():
        for layer in (heads.video, heads.audio):
            layer.weight.zero_()
            layer.bias.copy_(torch.arange(len(layer.bias)))
        video, audio = heads.predict_video(latents), heads.predict_audio(latents)

    assert video.shape == (2, 4, 3, 3, 5, 2)
    for frame, channel, row, column in ((0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (2, 1, 3, 1)):
        assert (video[:, :, frame, channel, row, column] == ((frame * 3 + channel) * 5 + row) * 2 + column).all()
    assert audio.shape == (2, 4, 7, 5)
    assert (audio[:, :, 3, 4] == 3 * 5 + 4).all()
    with torch.no_grad():
        heads.video.weight.normal_()
        by_hand = sum(latents[:, :, latent] for latent in range(LATENTS)) / LATENTS
        torch.testing.assert_close(heads.predict_video(latents).flatten(2), heads.video(by_hand), atol=1e-4, rtol=1e-4)
