"""The voices: the neural engine hibari, and espeak-ng with its accents and variants. One process, one thread.

A voice is named `<engine>-<the engine's own name>`. Both engines give the same samples for the same arguments.
"""

import _ctypes
import ctypes
from functools import cache

import numpy as np
import soxr

from speech_rba.assets import resolve
from speech_rba.synthesis.augment import SAMPLE_RATE

# Left out: en-029+f1 and en-gb-x-gbcwmd+m3, of which Whisper tiny.en gets 90 % and 64 % of the words wrong.
VOICES = (
    "hibari-heart",
    "espeak-en-us",
    "espeak-en-us+f3",
    "espeak-en-us+f2",
    "espeak-en-us+m3",
    "espeak-en-us+m7",
    "espeak-en-us+Annie",
    "espeak-en-us+klatt4",
    "espeak-en-us-nyc",
    "espeak-en-us-nyc+f4",
    "espeak-en",
    "espeak-en+steph",
    "espeak-en-gb-scotland",
    "espeak-en-gb-x-rp",
    "espeak-en-gb-x-rp+f2",
    "espeak-en-gb-x-rp+m3",
    "espeak-en-gb-x-gbclan",
    "espeak-en-gb-x-gbclan+f5",
    "espeak-en-029",
)

# Constants of espeak-ng's speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
RATE, VOLUME = 1, 2
NORMAL_WPM = 175
SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def training_voices(heldout_voice: str) -> list[str]:
    """Every voice but `heldout_voice`.

    Raises:
        ValueError: there is no such voice.
    """
    if heldout_voice not in VOICES:
        raise ValueError(f"voice.heldout_voice is {heldout_voice!r}; choose one of {', '.join(VOICES)}")
    return [voice for voice in VOICES if voice != heldout_voice]


def speak(voice: str, text: str, rate: float, pitch_semitones: float) -> np.ndarray:
    """`text` in `voice`, float32 `(N,)` at 16 kHz; `(0,)` when the engine finds nothing to say.

    The pitch moves by playing the samples faster or slower, which moves the formants too, as in a smaller or
    larger speaker; the engine's speed makes up for the time. hibari rounds every sound to whole frames and
    so follows `rate` only roughly.

    Raises:
        ValueError: there is no such voice.
    """
    if voice not in VOICES:
        raise ValueError(f"no voice {voice!r}; choose one of {', '.join(VOICES)}")
    engine, _, name = voice.partition("-")
    factor = 2 ** (pitch_semitones / 12)
    say = _say_hibari if engine == "hibari" else _say_espeak
    audio, sampling_rate = say(name, text, rate / factor)
    return soxr.resample(audio, sampling_rate * factor, SAMPLE_RATE) if len(audio) else audio


@cache
def _hibari():
    from hibari import Hibari

    return Hibari(model=str(resolve("pypi:hibari-tts") / "hibari.onnx"), threads=1)


def _say_hibari(name: str, text: str, speed: float) -> tuple[np.ndarray, int]:
    assert name == "heart", "the only voice in the package: others would be downloaded"
    return _hibari()(text, speed=speed, seed=0), _hibari().sample_rate


def _say_espeak(name: str, text: str, speed: float) -> tuple[np.ndarray, int]:
    """Float32 samples and their rate.

    The library is opened anew for each text (12 ms): it carries state from one text to the next that neither
    its seed nor espeak_Terminate resets, so that the samples would depend on what was said before.
    """
    folder = resolve("pypi:espeakng-loader")
    library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    chunks = []

    @SYNTH_CALLBACK
    def keep(samples, num_samples, _events):
        if samples and num_samples:
            chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0

    try:
        data = str(folder / "espeak-ng-data").encode()
        sampling_rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data, INITIALIZE_DONT_EXIT)
        if sampling_rate <= 0:
            raise ValueError(f"espeak-ng does not start with the data in {folder}; reinstall espeakng-loader")
        library.espeak_SetSynthCallback(keep)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        if library.espeak_SetVoiceByName(name.encode()):
            raise ValueError(f"espeak-ng has no voice {name!r}; correct VOICES")
        library.espeak_SetParameter(RATE, round(NORMAL_WPM * speed), 0)
        library.espeak_SetParameter(VOLUME, 50, 0)  # at the usual 100 some variants reach full scale
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, CHARS_UTF8, None, None)
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    return samples.astype(np.float32) / 32768, sampling_rate
