"""espeak-ng through its shared library: speech in many accents, and the phonemes that are the input of
Piper."""

import _ctypes
import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from speech_rba.assets.resolve import resolve
from speech_rba.errors import UserError
from speech_rba.synthesis.voices.speaker import Speaker

# Constants of espeak-ng's speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
PHONEMES_IPA = 2
RATE, VOLUME = 1, 2
NORMAL_WPM = 175
SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

# Left out: en-029+f1 and en-gb-x-gbcwmd+m3, of which Whisper tiny.en gets 90 % and 64 % of the words wrong.
VOICES = {
    "en-us": Speaker("man", "American"),
    "en-us+f3": Speaker("woman", "American"),
    "en-us+f2": Speaker("woman", "American"),
    "en-us+f5": Speaker("woman", "American"),
    "en-us+belinda": Speaker("woman", "American"),
    "en-us+klatt2": Speaker("man", "American"),
    "en-us+m3": Speaker("man", "American"),
    "en-us+m7": Speaker("man", "American"),
    "en-us+Annie": Speaker("woman", "American"),
    "en-us+klatt4": Speaker("man", "American"),
    "en-us-nyc": Speaker("man", "American"),
    "en-us-nyc+f4": Speaker("woman", "American"),
    "en-us-nyc+m2": Speaker("man", "American"),
    "en": Speaker("man", "British"),
    "en+steph": Speaker("woman", "British"),
    "en+f1": Speaker("woman", "British"),
    "en+m5": Speaker("man", "British"),
    "en-gb-scotland": Speaker("man", "Scottish"),
    "en-gb-scotland+f3": Speaker("woman", "Scottish"),
    "en-gb-scotland+m4": Speaker("man", "Scottish"),
    "en-gb-x-rp": Speaker("man", "British"),
    "en-gb-x-rp+f2": Speaker("woman", "British"),
    "en-gb-x-rp+m3": Speaker("man", "British"),
    "en-gb-x-gbclan": Speaker("man", "British"),
    "en-gb-x-gbclan+f5": Speaker("woman", "British"),
    "en-gb-x-gbclan+m6": Speaker("man", "British"),
    "en-029": Speaker("man", "Caribbean"),
    "en-029+m2": Speaker("man", "Caribbean"),
}


@contextmanager
def opened(voice: str) -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library, set to `voice`, and its sampling rate.

    It is opened anew for each text (12 ms): it keeps state that neither its seed nor espeak_Terminate resets,
    so that the samples would depend on the texts before.

    Raises:
        UserError: the library does not start, or it has no such voice.
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
            raise UserError(f"espeak-ng has no voice {voice!r}; correct espeak.VOICES")
        yield library, sampling_rate
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


def say(name: str, text: str, rate: float) -> tuple[np.ndarray, int]:
    """Float32 samples `(N,)` and their sampling rate."""
    chunks = []

    @SYNTH_CALLBACK
    def keep(samples, num_samples, _events):
        if samples and num_samples:
            chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0

    with opened(name) as (library, sampling_rate):
        library.espeak_SetSynthCallback(keep)
        library.espeak_SetParameter(RATE, round(NORMAL_WPM * rate), 0)
        library.espeak_SetParameter(VOLUME, 50, 0)  # at the usual 100 some variants reach full scale
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, CHARS_UTF8, None, None)
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    return samples.astype(np.float32) / 32768, sampling_rate


def phonemes(name: str, clauses: list[str]) -> list[str]:
    """The IPA of each clause. A text of two clauses loses the second: the library stops at a mark such as a
    comma."""
    with opened(name) as (library, _):
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        transcriptions = []
        for clause in clauses:
            position = ctypes.c_char_p(clause.encode())
            ipa = library.espeak_TextToPhonemes(ctypes.byref(position), CHARS_UTF8, PHONEMES_IPA)
            transcriptions.append(ipa.decode())
        return transcriptions


def marked_phonemes(name: str, text: str) -> str:
    """The IPA of a text with the first punctuation mark of each clause; empty without a word."""
    clauses = re.findall(r"([^,.?!:;]*)([,.?!:;]*)", text)
    clauses = [(words, mark) for words, mark in clauses if re.search(r"\w", words)]
    spoken = phonemes(name, [words for words, _ in clauses]) if clauses else []
    return " ".join(ipa + mark[:1] for ipa, (_, mark) in zip(spoken, clauses, strict=True))
