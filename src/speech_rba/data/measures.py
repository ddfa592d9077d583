"""Measures of a clip, and the normalised text by which words are compared."""

from functools import cache, lru_cache

import jiwer
import numpy as np

from speech_rba.data.audio import SAMPLE_RATE
from speech_rba.records import Feature

FRAME = SAMPLE_RATE // 50  # 20 ms
FLOOR_DB = -120.0  # of digital silence: JSON has no infinity


@cache
def _normalizer():
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})  # the empty mapping leaves British spelling as it is


@lru_cache(maxsize=1 << 17)  # 0.3 ms a text, and a text has many clips
def normalize(text: str) -> str:
    """`text` by Whisper's English normaliser: lower case, no punctuation, numbers in digits.

    Source: Robust Speech Recognition via Large-Scale Weak Supervision, appendix C.
    """
    return _normalizer()(text).strip()


def word_error_rate(references: list[str], hypotheses: list[str]) -> float:
    """Word errors over reference words of the whole corpus, after `normalize`: a fraction, 0 without texts.

    Insertions can bring it above 1; without a reference word it is the number of insertions.
    """
    if not references:
        return 0.0
    return float(
        jiwer.wer([normalize(text) for text in references], [normalize(text) for text in hypotheses])
    )


def decibels(amplitude: np.ndarray) -> np.ndarray:
    """dB relative to full scale, at least FLOOR_DB."""
    return 20 * np.log10(np.maximum(amplitude, 10 ** (FLOOR_DB / 20)))


def silence_share(audio: np.ndarray) -> float:
    """Share of 20 ms frames under -60 dBFS or more than 40 dB under the loudest frame; 1 without samples."""
    frames = np.pad(audio, (0, -len(audio) % FRAME)).reshape(-1, FRAME)
    if not len(frames):
        return 1.0
    levels_db = decibels(np.sqrt((frames**2).mean(axis=1)))
    return float((levels_db < max(-60.0, levels_db.max() - 40)).mean())


def measure(
    audio: np.ndarray,
    transcript: str,
    judge_hypothesis: str | None,
    student_hypothesis: str | None,
    mean_logprob: float | None,
    clip_id: str,
) -> Feature:
    """The measures of one clip: `audio` is float32 `(samples,)` at 16 kHz.

    `judge_hypothesis` is the transcript of the unadapted Whisper, None where it does not transcribe the clip.
    Without samples the duration is 0 and the silence share 1.
    """
    samples = np.asarray(audio, dtype=np.float64)
    duration_s = len(samples) / SAMPLE_RATE
    return Feature(
        clip_id=clip_id,
        duration_s=duration_s,
        rms_db=float(decibels(np.sqrt(np.square(samples).sum() / max(len(samples), 1)))),
        peak=float(np.abs(samples).max(initial=0.0)),
        clipped_share=float((np.abs(samples) >= 0.999).sum() / max(len(samples), 1)),
        silence_share=silence_share(samples),
        words_per_s=len(normalize(transcript).split()) / duration_s if duration_s else 0.0,
        judge_hypothesis=judge_hypothesis,
        student_hypothesis=student_hypothesis,
        wer=None if judge_hypothesis is None else word_error_rate([transcript], [judge_hypothesis]),
        mean_logprob=mean_logprob,
    )
