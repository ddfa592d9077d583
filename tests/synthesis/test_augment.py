"""Levels, ratios and bands of what augment does, on signals whose figures are known."""

import numpy as np
import pytest

from speech_rba.synthesis import augment
from speech_rba.synthesis.augment import SAMPLE_RATE


def tone(hz: float, amplitude: float, seconds: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


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
def test_noise_is_added_at_the_ratio_asked(snr_db):
    speech = tone(440, 0.3)
    noise = augment.white_noise(len(speech), np.random.default_rng(0))
    added = augment.with_noise(speech, noise, snr_db) - speech
    assert gain_db(speech, added) == pytest.approx(snr_db, abs=1e-3)


def test_every_octave_of_pink_noise_is_equally_strong():
    power = np.abs(np.fft.rfft(augment.pink_noise(8 * SAMPLE_RATE, np.random.default_rng(0)))) ** 2  # bins of 1/8 Hz
    octaves = [power[8 * low : 16 * low].sum() for low in (100, 400, 1600)]
    assert octaves == pytest.approx([octaves[0]] * 3, rel=0.1)


def test_in_the_wild_every_kind_of_spoiling_comes_and_the_same_draw_gives_the_same():
    speech, talkers = tone(1000, 0.3), [tone(100 * i, 0.1) for i in range(3, 12)]

    def spoiled(seed: int) -> np.ndarray:
        return augment.in_the_wild(speech, talkers, [-5.0, 15.0], [0.2, 1.0], np.random.default_rng(seed))

    found = [spoiled(seed) for seed in range(60)]
    assert all(np.array_equal(clip, spoiled(seed)) for seed, clip in enumerate(found[:5]))
    in_room = np.mean([len(clip) > len(speech) for clip in found])
    assert in_room == pytest.approx(0.3, abs=0.15)
    untouched = np.mean([np.array_equal(clip, speech) for clip in found])
    assert untouched == pytest.approx(0.7 * 0.25 * 0.8, abs=0.12)  # no room, no noise, no line
    added = [augment.rms(clip - speech) for clip in found if len(clip) == len(speech)]
    assert 0.2 < max(added) < 0.3 / np.sqrt(2) * 10 ** (5 / 20) + 0.01  # at most 5 dB over the speech


def test_babble_holds_every_talker_equally_loud():
    talkers = [tone(300, 0.5), tone(1000, 0.01, 0.3)]
    mixed = augment.babble(talkers, SAMPLE_RATE, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(mixed))  # bins of 1 Hz
    assert spectrum[300] == pytest.approx(spectrum[1000], rel=1e-3)
    assert spectrum[300] > 100 * np.delete(spectrum, [300, 1000]).max()


def test_echo_falls_by_60_db_in_rt60():
    click = np.zeros(10, np.float32)
    click[0] = 1.0
    heard = augment.reverberated(click, 0.5, np.random.default_rng(0))
    assert len(heard) == 10 + 8000 - 1
    assert heard[0] == pytest.approx(1.0, abs=1e-5)
    assert augment.rms(heard[1:8000]) ** 2 * 7999 == pytest.approx(1.0, rel=1e-3)  # as strong as the direct sound
    # 0.1 s to 0.4 s is 0.3 / 0.5 of the time, so 36 of 60 dB; windows of 50 ms of noise know it within 1 dB
    assert gain_db(heard[6000:6800], heard[1200:2000]) == pytest.approx(-36, abs=1.5)


def test_telephone_passes_its_band_alone():
    for hz, low, high in ((100, -90, -25), (1000, -0.5, 0.5), (3000, -1.5, 0.5), (5000, -200, -40)):
        assert low < gain_db(augment.telephone(tone(hz, 0.5)), tone(hz, 0.5)) < high, hz
    assert len(augment.telephone(tone(1000, 0.5)[:12_345])) == 12_345


@pytest.mark.parametrize("audio", [np.zeros(0, np.float32), np.zeros(1600, np.float32)])
def test_silence_stays_silent(audio):
    rng = np.random.default_rng(0)
    noise = augment.white_noise(len(audio), rng)
    for result in (
        augment.at_level(audio, -20.0),
        augment.with_noise(audio, noise, 0.0),
        augment.reverberated(audio, 0.3, rng),
        augment.telephone(audio),
        augment.with_noise(audio, augment.pink_noise(len(audio), rng), 0.0),
    ):
        assert result.dtype == np.float32
        assert not result.any()
