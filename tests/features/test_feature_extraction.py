"""Log-mel: equal to the AST family's after a shift of 15 ms, and causal to the bit."""

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor

from mirasol.features import MirasolFeatureExtractor
from mirasol.features.feature_extraction_mirasol import HOP_SAMPLES, LOOKBACK_SAMPLES, check_waveform, mel_power

RATE = 16_000
SAMPLES = 7_919  # a prime: 49 whole columns and a started one
COLUMNS = 50
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")  # AST's own filters


@pytest.fixture
def extractor() -> MirasolFeatureExtractor:
    return MirasolFeatureExtractor()


def noise(samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def spoiled(value: float) -> np.ndarray:
    waveform = noise().astype(np.result_type(np.float32, type(value) if isinstance(value, np.generic) else np.float32))
    waveform[2_000] = value
    return waveform


def test_columns_equal_those_of_ast_fifteen_milliseconds_later(extractor):
    waveform = noise()
    shifted = np.concatenate([np.zeros(LOOKBACK_SAMPLES, np.float32), waveform])
    whole_columns = SAMPLES // HOP_SAMPLES
    ast = ASTFeatureExtractor(max_length=whole_columns)
    theirs = torch.from_numpy(ast(shifted, sampling_rate=16_000)["input_values"][0])
    ours = extractor(waveform, RATE)["input_features"][0]
    assert ours.shape == (COLUMNS, 128)
    # In the log, AST's float64 and our float32 agree to 2e-3 (quietest bands); both are divided by 2 std = 9.1.
    torch.testing.assert_close(ours[:whole_columns], theirs.float(), atol=5e-4, rtol=0)


@pytest.mark.parametrize("first_changed", [1, 161, 3_301, 7_907])
def test_columns_ignore_later_sound(extractor, first_changed):
    waveform, changed = noise(), noise()
    changed[first_changed:] = noise(SAMPLES - first_changed, seed=1)
    before, after = (extractor(w, RATE)["input_features"][0] for w in (waveform, changed))
    complete = first_changed // HOP_SAMPLES  # columns that end at or before the first changed sample
    assert torch.equal(before[:complete], after[:complete])
    assert not torch.equal(before[complete], after[complete])


def test_no_sound_is_the_floor(extractor):
    features = extractor(np.zeros(SAMPLES, np.float32), RATE)["input_features"]
    assert torch.equal(features, torch.full((1, COLUMNS, 128), extractor.floor))
    assert extractor.floor == pytest.approx((np.log(2.0**-23) + 4.2677393) / (2 * 4.5689974), abs=1e-6)


def test_power_is_squared_amplitude():
    samples = torch.from_numpy(noise())[None]
    torch.testing.assert_close(mel_power(2 * samples), 4 * mel_power(samples))


def test_a_tone_lights_its_own_band():
    seconds = torch.arange(16_000) / 16_000
    power = mel_power(torch.sin(2 * torch.pi * 1_000 * seconds)[None])[0, 20]
    # Kaldi's mel scale: 1127 ln(1 + f / 700); 128 bands between 20 and 8000 Hz.
    mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    expected = (mel(1_000) - mel(20)) / (mel(8_000) - mel(20)) * 129 - 1
    assert abs(int(power.argmax()) - expected) <= 1


def test_shorter_sound_in_a_batch_is_filled_with_the_floor_and_masked(extractor):
    short = noise(SAMPLES // 3)
    alone, batch = extractor(short, RATE), extractor([short, noise()], RATE)
    columns = alone["input_features"].shape[1]
    # Matrix products of other heights may round differently in the last bits.
    torch.testing.assert_close(batch["input_features"][0, :columns], alone["input_features"][0], atol=1e-5, rtol=0)
    assert (batch["input_features"][0, columns:] == extractor.floor).all()
    assert batch["attention_mask"].sum(1).tolist() == [columns, COLUMNS]


def test_input_stays_as_it_was_and_twice_gives_the_same(extractor):
    waveform = noise()
    first, second = extractor(waveform, RATE), extractor(waveform, RATE)
    assert torch.equal(first["input_features"], second["input_features"])
    assert np.array_equal(waveform, noise())


def test_saved_extractor_is_loaded_with_its_values(extractor, tmp_path):
    MirasolFeatureExtractor(num_mel_bins=37, mean=-3.0, std=2.0).save_pretrained(tmp_path)
    loaded = MirasolFeatureExtractor.from_pretrained(tmp_path)
    assert (loaded.num_mel_bins, loaded.mean, loaded.std, loaded.sampling_rate) == (37, -3.0, 2.0, 16_000)
    assert loaded(noise(), RATE)["input_features"].shape == (1, COLUMNS, 37)


@pytest.mark.parametrize(
    ("sound", "options", "message"),
    [
        (noise(), {"sampling_rate": 44_100}, "sampling_rate, 16000 Hz, but it is 44100 Hz: resample .* to 16000 Hz"),
        (noise(), {"sampling_rate": None}, "it is not given: resample .* and pass sampling_rate=16000"),
        (spoiled(np.nan), {}, "finite floats .* holds nan at 0.125 s: divide .* by 32768, and repair or cut out"),
        (spoiled(-np.inf), {}, "holds -inf at 0.125 s"),
        (spoiled(1e30), {}, r"holds 1e\+30 at 0.125 s"),
        (spoiled(np.float64(1e300)), {}, r"holds 1e\+300 at 0.125 s"),
        (noise() * 32_768, {}, "finite floats in .* divide samples in int16 range by 32768"),
        ((noise() * 50).round(), {}, "divide samples in int16 range by 32768"),
        ([0.1, 0.2, "x"], {}, "holds <U32"),
        (np.zeros((2, 100), np.float32), {}, r"\[sample\], but this one has \[2, 100\]: pass one channel"),
        (np.zeros(0, np.float32), {}, r"has \[0\]: pass one channel .* at least one sample"),
        (np.zeros(100, np.int16), {}, "holds int16: divide int16 by 32768"),
    ],
)
def test_wrong_sound_is_refused_with_a_remedy(extractor, sound, options, message):
    with pytest.raises(ValueError, match=message):
        extractor(sound, **({"sampling_rate": RATE} | options))


@pytest.mark.parametrize("loudness", [1.4, 30.0])
def test_sound_above_full_scale_is_sound(extractor, loudness):
    """Decoders of lossy codecs overshoot full scale, and added noise goes far beyond."""
    loud = np.float32(loudness) * noise() / np.abs(noise()).max()
    assert extractor(loud, RATE)["input_features"].isfinite().all()


@pytest.mark.parametrize("kind", [list, torch.from_numpy, lambda w: w[::-1][::-1], lambda w: w.astype(">f8")])
def test_lists_tensors_views_and_other_floats_are_the_same_sound(extractor, kind):
    expected, found = extractor(noise(), RATE), extractor(kind(noise()), RATE)
    assert torch.equal(found["input_features"], expected["input_features"])


def test_a_read_only_waveform_is_read_without_a_warning(extractor, recwarn):
    waveform = noise()
    waveform.flags.writeable = False
    extractor(waveform, RATE)
    assert not recwarn.list


def test_long_sound_is_computed_in_pieces_that_leave_no_trace(monkeypatch):
    samples = torch.from_numpy(np.stack([noise(), noise(seed=1)]))
    whole = mel_power(samples)
    monkeypatch.setattr("mirasol.features.feature_extraction_mirasol.MAX_MEL_FRAMES_AT_ONCE", 14)
    # Matrix products of other heights may round differently in the last bits.
    torch.testing.assert_close(mel_power(samples), whole, rtol=1e-5, atol=1e-7)


def test_a_bad_sample_in_a_later_piece_is_named_by_its_own_second():
    with pytest.raises(ValueError, match="holds nan at 2.125 s"):
        check_waveform(spoiled(np.nan), begin=2 * RATE)
