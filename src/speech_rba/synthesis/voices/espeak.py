"""espeak-ng through its shared library: speech in many accents, and the phonemes that Piper's voices read."""

import _ctypes
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from speech_rba.assets.resolve import resolve
from speech_rba.errors import UserError

# Constants of espeak-ng's speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
PHONEMES_IPA = 2
RATE, VOLUME = 1, 2
NORMAL_WPM = 175
SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@contextmanager
def opened(voice: str) -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library, set to `voice`, and its sampling rate.

    It is opened anew for each text (12 ms): it carries state from one text to the next that neither its seed nor
    espeak_Terminate resets, so that the samples would depend on what was said before.
    """
    folder = resolve("pypi:espeakng-loader")
    library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    try:
        data = str(folder / "espeak-ng-data").encode()
        sampling_rate = library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data, INITIALIZE_DONT_EXIT)
        if sampling_rate <= 0:
            raise UserError(f"espeak-ng does not start with the data in {folder}; reinstall espeakng-loader")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        if library.espeak_SetVoiceByName(voice.encode()):
            raise UserError(f"espeak-ng has no voice {voice!r}; correct VOICES")
        yield library, sampling_rate
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


def say(voice: str, text: str, speed: float) -> tuple[np.ndarray, int]:
    """Float32 samples (N,) and their rate."""
    chunks = []

    @SYNTH_CALLBACK
    def keep(samples, num_samples, _events):
        if samples and num_samples:
            chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0

    with opened(voice) as (library, sampling_rate):
        library.espeak_SetSynthCallback(keep)
        library.espeak_SetParameter(RATE, round(NORMAL_WPM * speed), 0)
        library.espeak_SetParameter(VOLUME, 50, 0)  # at the usual 100 some variants reach full scale
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, CHARS_UTF8, None, None)
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    return samples.astype(np.float32) / 32768, sampling_rate


def phonemes(voice: str, texts: list[str]) -> list[str]:
    """The IPA of each text, which must be one clause: a mark such as a comma ends what the library reads at once."""
    with opened(voice) as (library, _):
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        found = []
        for text in texts:
            place = ctypes.c_char_p(text.encode())
            found.append(
                library.espeak_TextToPhonemes(ctypes.byref(place), CHARS_UTF8, PHONEMES_IPA).decode()
            )
        return found
