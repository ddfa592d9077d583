"""What rooms, noises and lines do to speech: pure functions on float32 `(N,)` at 16 kHz.

Silence has no level, so whatever is set relative to the level leaves it as it is.
"""

import numpy as np
import soxr
from scipy.signal import butter, fftconvolve, sosfiltfilt

SAMPLE_RATE = 16_000
LINE_RATE = 8_000
LINE_BAND_HZ = (300, 3400)
MAX_PEAK = 0.99
ROOM_SHARE, LINE_SHARE = 0.3, 0.2  # of the speech that trains the ears
NOISES = ("none", "white", "pink", "babble")
MIN_BABBLE_SNR_DB = 0.0  # below, nobody can tell who is meant
NUM_TALKERS = 6  # who speak at once in babble


def rms(audio: np.ndarray) -> float:
    """The root of the mean square; 0 for no samples."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0


def at_level(audio: np.ndarray, level_db: float) -> np.ndarray:
    """`audio` with an RMS of `level_db` (dB relative to full scale), or softer where its peak would clip."""
    if not rms(audio):
        return audio
    gain = min(10 ** (level_db / 20) / rms(audio), MAX_PEAK / np.abs(audio).max())
    return (audio * gain).astype(np.float32)


def with_noise(audio: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """`audio` plus `noise`, both `(N,)`, scaled so that the whole clip's RMS ratio is `snr_db`."""
    if not rms(noise):
        return audio
    return (audio + noise * (rms(audio) / rms(noise) * 10 ** (-snr_db / 20))).astype(np.float32)


def white_noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise, float32 `(num_samples,)`."""
    return rng.standard_normal(num_samples, dtype=np.float32)


def pink_noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls by 3 dB an octave, `(num_samples,)`, as most rooms have it."""
    if not num_samples:
        return np.zeros(0, np.float32)
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), num_samples).astype(np.float32)


def babble(talkers: list[np.ndarray], num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """All `talkers` at once, equally loud, each over and over from a random point on, `(num_samples,)`."""
    mixed = np.zeros(num_samples, np.float32)
    for talker in talkers:
        start = int(rng.integers(len(talker)))
        mixed += np.take(talker, np.arange(start, start + num_samples), mode="wrap") / rms(talker)
    return mixed


def reverberated(audio: np.ndarray, rt60_s: float, rng: np.random.Generator) -> np.ndarray:
    """`audio` in a room whose echo falls by 60 dB in `rt60_s`, longer than before by that echo.

    The response is the direct sound and, as strong as it, exponentially decaying noise (Polack's model).
    """
    if not len(audio):
        return audio
    num_samples = round(rt60_s * SAMPLE_RATE)
    tail = rng.standard_normal(num_samples) * 10 ** (-3 * np.arange(num_samples) / num_samples)
    tail[0] = 0
    response = tail / np.sqrt(np.sum(tail**2))
    response[0] = 1
    return fftconvolve(audio, response).astype(np.float32)


def telephone(audio: np.ndarray) -> np.ndarray:
    """`audio` through a line of 8 kHz that lets 300 to 3400 Hz pass; as many samples as before."""
    if not len(audio):
        return audio
    line = soxr.resample(audio, SAMPLE_RATE, LINE_RATE)
    band = butter(4, LINE_BAND_HZ, "bandpass", fs=LINE_RATE, output="sos")
    heard = soxr.resample(sosfiltfilt(band, line, padlen=0).astype(np.float32), LINE_RATE, SAMPLE_RATE)
    return np.pad(heard, (0, max(0, len(audio) - len(heard))))[: len(audio)]


def in_the_wild(
    audio: np.ndarray, talkers: list[np.ndarray], snr_db: list[float], rt60_s: list[float], rng: np.random.Generator
) -> np.ndarray:
    """`audio` in a room, a noise and a line, each there or not by chance; `snr_db` and `rt60_s` are ranges."""
    if rng.random() < ROOM_SHARE:
        audio = reverberated(audio, rng.uniform(*rt60_s), rng)
    kind, snr = rng.choice(NOISES), rng.uniform(*snr_db)
    if kind == "babble":
        chosen = [talkers[i] for i in rng.choice(len(talkers), NUM_TALKERS, replace=False)]
        audio = with_noise(audio, babble(chosen, len(audio), rng), max(snr, MIN_BABBLE_SNR_DB))
    elif kind != "none":
        noise = {"white": white_noise, "pink": pink_noise}[kind](len(audio), rng)
        audio = with_noise(audio, noise, snr)
    return telephone(audio) if rng.random() < LINE_SHARE else audio
