"""Clips without speech for benchmarks/no_speech.py, made from a seed: those of the test set by other
generators than those of the validation set."""

from collections.abc import Callable

import numpy as np
from scipy import signal

RATE = 16_000  # Hz
Rng = np.random.Generator
NOTES = 220.0 * 2 ** (np.arange(25) / 12)  # Hz, two octaves
MAJOR = (0, 4, 7, 12)  # semitones of a chord


def times(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * RATE)) / RATE


def coloured(rng: Rng, size: int, slope: float) -> np.ndarray:
    """Noise whose power falls with frequency to the power of `slope`, of unit deviation."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (slope / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, size)
    return noise / max(noise.std(), 1e-9)


def band(rng: Rng, size: int, low: float, high: float) -> np.ndarray:
    """White noise between two frequencies in Hz."""
    sos = signal.butter(2, [low, high], "bandpass", fs=RATE, output="sos")
    return signal.sosfilt(sos, rng.standard_normal(size))


def placed(total: int, starts: np.ndarray, sound: Callable[[], np.ndarray]) -> np.ndarray:
    """A sound made anew at each start in seconds, within `total` samples."""
    out = np.zeros(total + 4 * RATE)
    for start in starts:
        one, at = sound(), int(start * RATE)
        end = min(len(out), at + len(one))
        out[at:end] += one[: end - at]
    return out[:total]


def tone(frequency: float, seconds: float, harmonics: int, decay: float) -> np.ndarray:
    """A note with falling harmonics, a short attack and an exponential decay a second."""
    t = times(seconds)
    wave = sum(np.sin(2 * np.pi * k * frequency * t) / k for k in range(1, harmonics + 1))
    return wave * np.minimum(1, t / 0.01) * np.exp(-decay * t)


def silence(rng: Rng, seconds: float) -> np.ndarray:
    return np.zeros(len(times(seconds)))


def white_noise(rng: Rng, seconds: float) -> np.ndarray:
    return rng.standard_normal(len(times(seconds)))


def pink_noise(rng: Rng, seconds: float) -> np.ndarray:
    return coloured(rng, len(times(seconds)), 1.0)


def hum(rng: Rng, seconds: float) -> np.ndarray:
    """Mains hum of 50 Hz with its harmonics."""
    t = times(seconds)
    return sum(rng.uniform(0.1, 1) * np.sin(2 * np.pi * 50 * k * t) for k in range(1, 8))


def chords(rng: Rng, seconds: float) -> np.ndarray:
    """A chord a second, held."""
    length = rng.uniform(0.6, 1.4)
    return placed(
        len(times(seconds)),
        np.arange(0, seconds, length),
        lambda: _chord(float(rng.choice(NOTES[:12])), length, 4, 1.0),
    )


def _chord(root: float, length: float, harmonics: int, decay: float) -> np.ndarray:
    return sum(tone(root * 2 ** (step / 12), length, harmonics, decay) for step in MAJOR)


def melody(rng: Rng, seconds: float) -> np.ndarray:
    """A plucked note every quarter of a second."""
    return placed(
        len(times(seconds)),
        np.arange(0, seconds, 0.25),
        lambda: tone(float(rng.choice(NOTES)), 0.5, 6, 6.0),
    )


def drums(rng: Rng, seconds: float) -> np.ndarray:
    """Bass drum and snare in turn, with a hi-hat."""
    total, beat = len(times(seconds)), rng.uniform(0.35, 0.6)
    t = times(0.3)
    bass = np.sin(2 * np.pi * (50 * t + 6 * (1 - np.exp(-30 * t)))) * np.exp(-12 * t)
    sound = placed(total, np.arange(0, seconds, 2 * beat), lambda: bass)
    sound += placed(total, np.arange(beat, seconds, 2 * beat), lambda: _burst(rng, 0.2, 300, 6000, 20) * 0.5)
    return sound + placed(
        total, np.arange(0, seconds, beat / 2), lambda: _burst(rng, 0.05, 5000, 7900, 80) * 0.3
    )


def _burst(rng: Rng, seconds: float, low: float, high: float, decay: float) -> np.ndarray:
    """Noise that decays, of unit peak."""
    noise = band(rng, int(seconds * RATE), low, high) * np.exp(-decay * times(seconds))
    return noise / np.abs(noise).max()


def cough(rng: Rng, seconds: float) -> np.ndarray:
    """One to three bursts of noise with a second, softer part."""
    starts = np.cumsum(rng.uniform(0.15, 0.5, rng.integers(1, 4)))

    def one() -> np.ndarray:
        first = _burst(rng, 0.12, 300, 3000, rng.uniform(15, 30))
        second = _burst(rng, 0.25, 400, 2000, rng.uniform(8, 15)) * 0.4
        return np.concatenate([first, second])

    return placed(len(times(seconds)), starts, one)


def click(rng: Rng, seconds: float) -> np.ndarray:
    """One to four clicks of a few samples."""
    out = np.zeros(len(times(seconds)))
    out[rng.integers(0, len(out), rng.integers(1, 5))] = 1
    return signal.lfilter([1], [1, -rng.uniform(0.5, 0.95)], out)


def room_tone(rng: Rng, seconds: float) -> np.ndarray:
    """Brown noise and a faint hum."""
    return coloured(rng, len(times(seconds)), 2.0) + 0.1 * hum(rng, seconds)


def beeps(rng: Rng, seconds: float) -> np.ndarray:
    """A beep every half second, or one long tone."""
    frequency, length = rng.uniform(300, 3000), float(rng.choice([0.2, 10.0]))
    return placed(
        len(times(seconds)), np.arange(0, seconds, max(0.5, length)), lambda: tone(frequency, length, 1, 0.0)
    )


def instant(rng: Rng, seconds: float) -> np.ndarray:
    """One sample to 60 ms of noise."""
    return rng.standard_normal(int(rng.integers(1, 1000)))


def wind(rng: Rng, seconds: float) -> np.ndarray:
    """Brown noise that swells and falls."""
    swell = 1 + np.sin(2 * np.pi * rng.uniform(0.2, 0.8) * times(seconds) + rng.uniform(0, 6))
    return coloured(rng, len(times(seconds)), rng.uniform(1.5, 2.5)) * swell


def rain(rng: Rng, seconds: float) -> np.ndarray:
    """Hundreds of drops in a soft hiss."""
    size = len(times(seconds))
    drops = np.zeros(size)
    drops[rng.integers(0, size, int(seconds * rng.uniform(50, 400)))] = rng.uniform(0.2, 1)
    return signal.lfilter([1], [1, -0.7], drops) + 0.02 * rng.standard_normal(size)


def engine(rng: Rng, seconds: float) -> np.ndarray:
    """Pulses of noise at the rate of an idling engine."""
    t = times(seconds)
    pulses = np.maximum(0, np.sin(2 * np.pi * rng.uniform(15, 40) * t)) ** 4
    return pulses * coloured(rng, len(t), 1.5) + 0.2 * np.sin(2 * np.pi * rng.uniform(60, 120) * t)


def keypad(rng: Rng, seconds: float) -> np.ndarray:
    """The two tones of telephone keys."""

    def key() -> np.ndarray:
        low, high = rng.choice([697, 770, 852, 941]), rng.choice([1209, 1336, 1477])
        return tone(low, 0.15, 1, 0.0) + tone(high, 0.15, 1, 0.0)

    return placed(len(times(seconds)), np.arange(0.1, seconds, 0.3), key)


def siren(rng: Rng, seconds: float) -> np.ndarray:
    """A tone that rises and falls."""
    t = times(seconds)
    frequency = rng.uniform(500, 900) + 300 * np.sin(2 * np.pi * rng.uniform(0.2, 2.0) * t)
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE)


def knocks(rng: Rng, seconds: float) -> np.ndarray:
    """Knocks on a door."""
    starts = 0.2 + np.arange(rng.integers(2, 6)) * rng.uniform(0.15, 0.4)
    return placed(len(times(seconds)), starts, lambda: _burst(rng, 0.1, 80, 900, 50))


def bark(rng: Rng, seconds: float) -> np.ndarray:
    """Short harmonic bursts whose pitch falls."""

    def one() -> np.ndarray:
        t = times(rng.uniform(0.12, 0.25))
        phase = np.cumsum(rng.uniform(350, 600) * np.exp(-2 * t)) / RATE
        wave = signal.sawtooth(2 * np.pi * phase) + 0.5 * rng.standard_normal(len(t))
        return wave * np.hanning(len(t))

    return placed(len(times(seconds)), np.arange(0.1, seconds, rng.uniform(0.4, 0.9)), one)


def sneeze(rng: Rng, seconds: float) -> np.ndarray:
    """A breath in, which grows, and a burst of higher noise."""
    breath = band(rng, RATE // 2, 500, 2500) * np.linspace(0, 0.2, RATE // 2)
    sound = np.concatenate([breath, _burst(rng, 0.5, 800, 6500, rng.uniform(5, 12))])
    return placed(len(times(seconds)), np.array([0.1]), lambda: sound)


def arpeggio(rng: Rng, seconds: float) -> np.ndarray:
    """Broken chords of detuned saw-teeth through a low-pass filter, with an echo."""

    def note() -> np.ndarray:
        frequency, t = float(rng.choice(NOTES)) / 2, times(0.4)
        wave = signal.sawtooth(2 * np.pi * frequency * t) + signal.sawtooth(2.01 * np.pi * frequency * t)
        return wave * np.exp(-5 * t)

    dry = placed(len(times(seconds)), np.arange(0, seconds, rng.uniform(0.12, 0.3)), note)
    sos = signal.butter(2, rng.uniform(800, 3000), fs=RATE, output="sos")
    return signal.sosfilt(sos, dry) + 0.3 * np.roll(dry, RATE // 4)


def bells(rng: Rng, seconds: float) -> np.ndarray:
    """Bells by frequency modulation, with long decays."""

    def bell() -> np.ndarray:
        frequency, t = float(rng.choice(NOTES)), times(2.0)
        modulation = 3 * np.exp(-3 * t) * np.sin(2 * np.pi * 1.4 * frequency * t)
        return np.sin(2 * np.pi * frequency * t + modulation) * np.exp(-2 * t)

    return placed(len(times(seconds)), np.sort(rng.uniform(0, seconds, int(2 * seconds) + 1)), bell)


def band_music(rng: Rng, seconds: float) -> np.ndarray:
    """Drums, a bass line, strings with vibrato and a lead."""
    t = times(seconds)
    strings = sum(
        np.sin(2 * np.pi * float(rng.choice(NOTES)) * t + 3 * np.sin(2 * np.pi * 5.5 * t)) for _ in range(3)
    )
    return drums(rng, seconds) + 0.3 * strings + 0.5 * arpeggio(rng, seconds) / 2 + 0.4 * chords(rng, seconds)


VALIDATION = [
    *(silence, white_noise, pink_noise, hum, chords, melody, drums, cough, click, room_tone, beeps, instant)
]
TEST = [
    *(silence, white_noise, instant, wind, rain, engine, keypad, siren, knocks, bark, sneeze, arpeggio),
    *(bells, band_music),
]


def make(generators: list[Callable], num_each: int, seed: int) -> list[tuple[str, np.ndarray]]:
    """(name of the generator, clip) of 0.3 to 8 s, with a peak of -80 to 0 dB re full scale, half above -20;
    every third has faint noise of a microphone in it."""
    clips = []
    for kind, generator in enumerate(generators):
        for number in range(num_each):
            rng = np.random.default_rng([seed, kind, number])
            clip = np.asarray(generator(rng, rng.uniform(0.3, 8.0)), dtype=np.float64)
            level_db = rng.uniform(-20, 0) if number % 2 else rng.uniform(-80, -20)
            clip = clip / max(np.abs(clip).max(initial=0), 1e-9) * 10 ** (level_db / 20)
            if number % 3 == 0:
                clip = clip + 10 ** (rng.uniform(-90, -50) / 20) * rng.standard_normal(len(clip))
            clips.append((generator.__name__, np.clip(clip, -1, 1).astype(np.float32)))
    return clips
