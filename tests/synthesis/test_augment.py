"""Levels, ratios and bands of augmented signals whose numbers are known."""

from pathlib import Path

import numpy as np
import pytest

from speech_rba.config import load_params
from speech_rba.synthesis import augment
from speech_rba.synthesis.augment import SAMPLE_RATE


def tone(hz: float, amplitude: float, seconds: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(
        np.float32
    )


def gain_db(after: np.ndarray, before: np.ndarray) -> float:
    return 20 * np.log10(augment.rms(after) / augment.rms(before))


def test_rms_of_a_sine_is_its_amplitude_over_root_two():
    assert augment.rms(tone(100, 0.5)) == pytest.approx(0.5 / np.sqrt(2), abs=1e-6)
    assert augment.rms(np.zeros(0, np.float32)) == 0


def test_level_is_reached():
    levelled = augment.at_level(tone(100, 0.9), -20.0)  # -20 dB is an RMS of 0.1
    assert augment.rms(levelled) == pytest.approx(0.1, abs=1e-6)
    assert levelled.dtype == np.float32


def test_level_stops_where_the_peak_would_clip():
    click = np.zeros(10_000, np.float32)
    click[5] = 0.1  # an RMS of -16 dB = 0.158 would need a peak of 15.8
    assert np.abs(augment.at_level(click, -16.0)).max() == pytest.approx(0.99)


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_is_added_at_the_requested_snr(snr_db):
    speech = tone(440, 0.3)
    noise = augment.white_noise(len(speech), np.random.default_rng(0))
    added = augment.with_noise(speech, noise, snr_db) - speech
    assert gain_db(speech, added) == pytest.approx(snr_db, abs=1e-3)


def test_every_octave_of_pink_noise_is_equally_strong():
    power = (
        np.abs(np.fft.rfft(augment.pink_noise(8 * SAMPLE_RATE, np.random.default_rng(0)))) ** 2
    )  # bins of 1/8 Hz
    octaves = [power[8 * low : 16 * low].sum() for low in (100, 400, 1600)]
    assert octaves == pytest.approx([octaves[0]] * 3, rel=0.1)


def test_training_clips_of_the_asr_adapter_get_every_augmentation_and_depend_on_the_seed_alone():
    speech, talkers = tone(1000, 0.3), [tone(100 * i, 0.1) for i in range(3, 12)]
    asr_adapter = load_params(Path(__file__).parents[2] / "params.yaml").asr_adapter

    def degraded(seed: int) -> np.ndarray:
        return augment.augment_for_asr(speech, talkers, asr_adapter, np.random.default_rng(seed))

    clips = [degraded(seed) for seed in range(60)]
    assert all(np.array_equal(clip, degraded(seed)) for seed, clip in enumerate(clips[:5]))
    in_room = np.mean([len(clip) > len(speech) for clip in clips])
    assert in_room == pytest.approx(0.85 * 0.3, abs=0.15)
    # unchanged by the share of clean clips, or without room, noise, clipping, device, line and codec
    untouched = np.mean([np.array_equal(clip, speech) for clip in clips])
    assert untouched == pytest.approx(0.15 + 0.85 * 0.7 * 0.2 * 0.9 * 0.7 * 0.8 * 0.85, abs=0.1)
    levels = [augment.rms(clip) for clip in clips]
    assert 0.3 < max(levels) < 0.3 / np.sqrt(2) * (1 + 10 ** (5 / 20))  # noise at most 5 dB over the speech


def test_devices_and_codecs_keep_length_and_most_of_the_sound():
    speech = tone(1000, 0.3)
    for seed in range(12):
        for change in (augment.through_device, augment.coded):
            changed = change(speech, np.random.default_rng(seed))
            assert len(changed) == len(speech) and changed.dtype == np.float32
            assert augment.rms(changed) == pytest.approx(augment.rms(speech), rel=0.15)
            assert not np.array_equal(changed, speech)
        assert len(augment.coded(np.zeros(100, np.float32), np.random.default_rng(seed))) == 100
    low = augment.through_device(tone(20, 0.3), np.random.default_rng(0))  # below the band of any device
    assert augment.rms(low) < 0.5 * augment.rms(tone(20, 0.3))


def test_babble_holds_every_talker_equally_loud():
    talkers = [tone(300, 0.5), tone(1000, 0.01, 0.3)]
    mixed = augment.babble(talkers, SAMPLE_RATE, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(mixed))  # bins of 1 Hz
    assert spectrum[300] == pytest.approx(spectrum[1000], rel=1e-3)
    assert spectrum[300] > 100 * np.delete(spectrum, [300, 1000]).max()


@pytest.mark.parametrize("rt60_s", [0.3, 0.6, 0.9])
def test_echo_falls_by_60_db_in_about_rt60(rt60_s):
    """Sabine's formula is an estimate; the decay is measured by Schroeder's backward integral from -5 to -25
    dB."""
    decay_times = []
    for seed in range(6):
        click = np.zeros(16, np.float32)
        click[0] = 1.0
        response = augment.in_room(click, rt60_s, np.random.default_rng(seed))
        left = np.cumsum(response[::-1].astype(float) ** 2)[::-1]
        left_db = 10 * np.log10(left / left[0] + 1e-12)
        decay_times.append(3 * (np.argmax(left_db < -25) - np.argmax(left_db < -5)) / SAMPLE_RATE)
        assert np.argmax(np.abs(response)) < 50, "the direct sound comes first"
        assert len(response) == pytest.approx(rt60_s * SAMPLE_RATE, rel=0.6)
    assert np.median(decay_times) == pytest.approx(rt60_s, rel=0.35)


def test_telephone_passes_its_band_alone():
    """GSM 06.10 models a voice, and adds noise to a tone, here down to about 12 dB below it."""
    for hz, low, high in ((100, -90, -25), (1000, -1.5, 1.0), (3000, -4, 1.0), (5000, -200, -40)):
        before = tone(hz, 0.5)
        spectrum = np.abs(np.fft.rfft(augment.telephone(before)))[hz - 20 : hz + 20]
        gain = 20 * np.log10(max(spectrum.max(), 1e-9) / np.abs(np.fft.rfft(before)).max())
        assert low < gain < high, hz
    assert len(augment.telephone(tone(1000, 0.5)[:12_345])) == 12_345


def test_clipping_leaves_the_share_above_full_scale_flat():
    audio = augment.clipped(tone(100, 0.5), 20.0)  # a tenth of the amplitude
    assert np.abs(audio).max() == pytest.approx(0.05)
    assert np.mean(np.abs(audio) > 0.0499) == pytest.approx(1 - 2 * np.arcsin(0.1) / np.pi, abs=0.01)


def test_muffled_halves_the_amplitude_at_the_cutoff_and_leaves_low_tones():
    assert gain_db(augment.muffled(tone(1000, 0.5), 1000.0), tone(1000, 0.5)) == pytest.approx(
        -6, abs=0.3
    )  # forth, back
    assert gain_db(augment.muffled(tone(2000, 0.5), 1000.0), tone(2000, 0.5)) == pytest.approx(-25, abs=2)
    assert gain_db(augment.muffled(tone(100, 0.5), 1000.0), tone(100, 0.5)) == pytest.approx(0, abs=0.2)


def test_lost_packets_are_silent_and_the_others_whole():
    speech = tone(440, 0.5, 8.0)
    degraded = augment.packets_lost(speech, 0.2, np.random.default_rng(0))
    packets = degraded.reshape(-1, 640)
    lost = ~packets.any(1)
    assert lost.mean() == pytest.approx(0.2, abs=0.06)
    assert np.array_equal(packets[~lost], speech.reshape(-1, 640)[~lost])


def test_hum_is_made_of_overtones_of_the_mains():
    power = np.abs(np.fft.rfft(augment.hum(SAMPLE_RATE, np.random.default_rng(0)))) ** 2  # bins of 1 Hz
    mains = int(power.argmax())
    assert mains in (50, 60)
    assert power[mains::mains].sum() > 0.99 * power.sum()


@pytest.mark.parametrize("audio", [np.zeros(0, np.float32), np.zeros(1600, np.float32)])
def test_silence_stays_silent(audio):
    rng = np.random.default_rng(0)
    noise = augment.white_noise(len(audio), rng)
    for result in (
        augment.at_level(audio, -20.0),
        augment.with_noise(audio, noise, 0.0),
        augment.in_room(audio, 0.3, rng),
        augment.clipped(audio, 20.0),
        augment.muffled(audio, 1000.0),
        augment.packets_lost(audio, 0.5, rng),
        augment.telephone(audio),
        augment.with_noise(audio, augment.pink_noise(len(audio), rng), 0.0),
    ):
        assert result.dtype == np.float32
        assert not result.any()
