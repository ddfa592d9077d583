"""Rooms, noises, microphones and telephone lines: pure functions on float32 `(N,)` at 16 kHz.

Silence has no level, so a function that sets something relative to the level returns silence unchanged.

They are written here and not taken from audiomentations: that library requires librosa and numba, draws from
global random state, so that a clip would depend on the clips before it, and would change every measured
number.
"""

import io
from collections.abc import Sequence

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, fftconvolve, sosfiltfilt

from speech_rba.config import AsrAdapter

SAMPLE_RATE = 16_000
LINE_RATE = 8_000
LINE_BAND_HZ = (300, 3400)
MAX_PEAK = 0.99
ROOM_M = ((4, 3, 2.4), (10, 8, 4))  # smallest and largest length, width, height
MAX_ECHOES = 20
NUM_OVERTONES = 20
PACKET_S = 0.04
# Shares of the clips that train the ASR adapter
CLEAN_SHARE = 0.15
ROOM_SHARE = 0.3
CLIP_SHARE = 0.1
DEVICE_SHARE = 0.3
LINE_SHARE = 0.2
CODEC_SHARE = 0.15
NOISE_KINDS = ("none", "white", "pink", "hum", "babble")
MIN_BABBLE_SNR_DB = 0.0  # below it the speaker cannot be distinguished from the background talkers
DEVICE_LOW_HZ, DEVICE_HIGH_HZ = (50.0, 300.0), (3000.0, 7800.0)
CODECS = (("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"))
CODEC_COMPRESSION = (0.8, 0.99)  # libsndfile's, from 0 to 1
NUM_TALKERS = 6  # background talkers of a babble


def draw_between(limits: Sequence[float], rng: np.random.Generator) -> float:
    """A number between the two `limits`, all equally likely."""
    low, high = limits
    return rng.uniform(low, high)


def rms(audio: np.ndarray) -> float:
    """The root of the mean square; 0 for no samples."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0


def at_level(audio: np.ndarray, level_db: float) -> np.ndarray:
    """`audio` with an RMS of `level_db` (dB relative to full scale), or less where its peak would clip."""
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
    """Noise whose power falls by 3 dB an octave, as in most rooms, float32 `(num_samples,)`."""
    if not num_samples:
        return np.zeros(0, np.float32)
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    bins = np.maximum(np.arange(len(spectrum)), 1)
    return np.fft.irfft(spectrum / np.sqrt(bins), num_samples).astype(np.float32)


def hum(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum, float32 `(num_samples,)`: 50 or 60 Hz and its overtones, each weaker than the one below."""
    mains = float(rng.choice([50, 60]))
    overtones = np.arange(1, NUM_OVERTONES + 1)[:, None]
    phases = rng.uniform(0, 2 * np.pi, overtones.shape)
    waves = np.sin(2 * np.pi * mains * overtones * np.arange(num_samples) / SAMPLE_RATE + phases) / overtones
    return waves.sum(0).astype(np.float32)


def babble(talkers: list[np.ndarray], num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """All `talkers` at once, equally loud, each repeated from a random start, float32 `(num_samples,)`."""
    mixed = np.zeros(num_samples, np.float32)
    for talker in talkers:
        start = int(rng.integers(len(talker)))
        mixed += np.take(talker, np.arange(start, start + num_samples), mode="wrap") / rms(talker)
    return mixed


def in_room(audio: np.ndarray, rt60_s: float, rng: np.random.Generator) -> np.ndarray:
    """`audio` in a box-shaped room of random size, speaker and microphone at random places; longer by its
    echo.

    Sabine's formula gives the absorption of the walls for `rt60_s`. Reflections at up to MAX_ECHOES walls are
    images of the speaker (pyroomacoustics), later ones are noise that decays at the same rate (Polack's
    model): to compute all as images takes seconds.
    """
    import pyroomacoustics as pra

    if not len(audio):
        return audio
    size = rng.uniform(*ROOM_M)
    absorption, order = pra.inverse_sabine(rt60_s, size)
    walls = pra.Material(absorption)
    room = pra.ShoeBox(size, fs=SAMPLE_RATE, materials=walls, max_order=min(order, MAX_ECHOES))
    room.add_source(size * rng.uniform(0.1, 0.9, 3))
    room.add_microphone(size * rng.uniform(0.1, 0.9, 3))
    room.compute_rir()
    early = room.rir[0][0].astype(np.float32)
    return fftconvolve(audio, _with_tail(early, rt60_s, rng)).astype(np.float32)


def _with_tail(early: np.ndarray, rt60_s: float, rng: np.random.Generator) -> np.ndarray:
    """The response `early`, then decaying noise of the same strength until the response has fallen by 60
    dB."""
    direct = int(np.abs(early).argmax())
    early, num_samples = early[direct:], round(rt60_s * SAMPLE_RATE)
    joint = (
        min(len(early), num_samples) * 3 // 4
    )  # later images are incomplete: they come from few directions
    decay = 10 ** (-3 * np.arange(num_samples) / num_samples)
    tail = rng.standard_normal(num_samples) * decay
    window = slice(joint // 2, joint)
    tail *= rms(early[window]) / max(rms(tail[window]), 1e-9)
    return np.concatenate([early[:joint], tail[joint:]]).astype(np.float32)


def telephone(audio: np.ndarray) -> np.ndarray:
    """`audio` through a mobile phone, `(N,)`: 8 kHz, 300 to 3400 Hz, and the codec GSM 06.10 of 13 kbit/s."""
    if not rms(audio):
        return audio
    line = soxr.resample(audio, SAMPLE_RATE, LINE_RATE)
    band = butter(4, LINE_BAND_HZ, "bandpass", fs=LINE_RATE, output="sos")
    line = sosfiltfilt(band, line, padlen=0)
    peak = np.abs(line).max()
    coded = io.BytesIO()
    soundfile.write(coded, line / peak * MAX_PEAK, LINE_RATE, format="WAV", subtype="GSM610")
    coded.seek(0)
    decoded = soundfile.read(coded, dtype="float32")[0] * (peak / MAX_PEAK)
    received = soxr.resample(decoded, LINE_RATE, SAMPLE_RATE)
    return np.pad(received, (0, max(0, len(audio) - len(received))))[: len(audio)].astype(np.float32)


def clipped(audio: np.ndarray, drive_db: float) -> np.ndarray:
    """`audio` from a microphone set `drive_db` too loud: samples above full scale are cut off."""
    limit = np.abs(audio).max(initial=0.0) * 10 ** (-drive_db / 20)
    return np.clip(audio, -limit, limit)


def muffled(audio: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """`audio` from behind a door or out of a pocket: above `cutoff_hz` 24 dB less an octave."""
    if not len(audio):
        return audio
    return sosfiltfilt(butter(2, cutoff_hz, fs=SAMPLE_RATE, output="sos"), audio, padlen=0).astype(np.float32)


def packets_lost(audio: np.ndarray, lost_share: float, rng: np.random.Generator) -> np.ndarray:
    """`audio` whose packets of PACKET_S are each lost, and silent, with a probability of `lost_share`."""
    size = round(PACKET_S * SAMPLE_RATE)
    kept = rng.random(-(-len(audio) // size)) >= lost_share
    return audio * kept.repeat(size)[: len(audio)].astype(np.float32)


def through_device(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`audio` of a random microphone, `(N,)`: the band from DEVICE_LOW_HZ to DEVICE_HIGH_HZ, with soft
    edges."""
    if not len(audio):
        return audio
    band = (draw_between(DEVICE_LOW_HZ, rng), draw_between(DEVICE_HIGH_HZ, rng))
    order = int(rng.integers(1, 3))
    return sosfiltfilt(butter(order, band, "bandpass", fs=SAMPLE_RATE, output="sos"), audio, padlen=0).astype(
        np.float32
    )


def coded(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`audio` as a messenger or a recorder stores it, `(N,)`: Opus, MP3 or Vorbis at a low bit rate."""
    peak = np.abs(audio).max(initial=0.0)
    if not peak:
        return audio
    kind, subtype = CODECS[int(rng.integers(len(CODECS)))]
    file = io.BytesIO()
    level = draw_between(CODEC_COMPRESSION, rng)
    soundfile.write(file, audio / peak * MAX_PEAK, SAMPLE_RATE, subtype, format=kind, compression_level=level)
    file.seek(0)
    decoded = soundfile.read(file, dtype="float32")[0] * (peak / MAX_PEAK)
    return np.pad(decoded, (0, max(0, len(audio) - len(decoded))))[: len(audio)].astype(np.float32)


def augment_for_asr(
    audio: np.ndarray, talkers: list[np.ndarray], asr_adapter: AsrAdapter, rng: np.random.Generator
) -> np.ndarray:
    """A training clip of the ASR adapter: `audio` unchanged, or in a room, a noise, a microphone or a line by
    chance."""
    if rng.random() < CLEAN_SHARE:
        return audio
    if rng.random() < ROOM_SHARE:
        audio = in_room(audio, draw_between(asr_adapter.rt60_s, rng), rng)
    kind, snr_db = rng.choice(NOISE_KINDS), draw_between(asr_adapter.snr_db, rng)
    if kind == "babble":
        speakers = [talkers[i] for i in rng.choice(len(talkers), NUM_TALKERS, replace=False)]
        audio = with_noise(audio, babble(speakers, len(audio), rng), max(snr_db, MIN_BABBLE_SNR_DB))
    elif kind != "none":
        noise = {"white": white_noise, "pink": pink_noise, "hum": hum}[kind](len(audio), rng)
        audio = with_noise(audio, noise, snr_db)
    if rng.random() < CLIP_SHARE:
        audio = clipped(audio, draw_between(asr_adapter.drive_db, rng))
    if rng.random() < DEVICE_SHARE:
        audio = through_device(audio, rng)
    if rng.random() < LINE_SHARE:
        return telephone(audio)
    return coded(audio, rng) if rng.random() < CODEC_SHARE else audio
