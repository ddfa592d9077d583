"""Which clips hold no speech, and where a transcript repeats itself."""

import math

import numpy as np

from speech_rba.model.speech_detection import speech_probabilities

SILENCE, TOO_SHORT, NO_SPEECH = "silence", "too short for a word", "no speech detected"
TOO_FAST = "more words than its time allows"
REASONS = (SILENCE, TOO_SHORT, NO_SPEECH, TOO_FAST)

SAMPLING_RATE = 16_000  # Hz
MIN_SAMPLES = SAMPLING_RATE // 10  # the shortest spoken digit of 100 has 0.27 s
SILENT_PEAK = 10 ** (-80 / 20)  # of full scale: three steps of 16 bits
LOUD_PEAK = 0.5  # to which a clip is scaled, since Silero VAD's probabilities depend on the level
# A clip has no speech where its highest probability of speech and the mean log-probability of its transcript
# are both below those of a line. Chosen with unadapted Whisper: 0 of 216 clips without speech (seed 0 of
# benchmarks/non_speech.py) keep a word, and 0 of 232 right transcripts of words and sentences are lost.
NO_SPEECH_BELOW = ((0.3, math.inf), (0.9, -0.6), (0.95, -0.9))
# A transcript with more tokens a second and a lower mean log-probability is invented: with the ASR adapter
# "two" becomes "What is a tree?". None of 232 right transcripts is lost.
MAX_TOKENS_PER_S, INVENTED_LOGPROB = 8, -1.0

LONGEST_CYCLE = 24  # tokens
MIN_LOOP = 8  # tokens that repeat, and then at least three rounds


def no_speech_reason(clip: np.ndarray, mean_logprob: float, num_tokens: int) -> str | None:
    """Why a clip (float32, 16 kHz mono) is set apart, given its transcript's mean log-probability and number
    of tokens: one of REASONS; None for a clip with speech."""
    centred = clip - clip.mean()
    peak = float(np.abs(centred).max())
    if len(clip) < MIN_SAMPLES:
        return TOO_SHORT
    if peak < SILENT_PEAK:
        return SILENCE
    speech = float(speech_probabilities(centred * (LOUD_PEAK / peak)).max())
    unlikely = any(speech < below and mean_logprob < guess for below, guess in NO_SPEECH_BELOW)
    if unlikely:
        return NO_SPEECH
    too_fast = num_tokens > MAX_TOKENS_PER_S * len(clip) / SAMPLING_RATE
    return TOO_FAST if too_fast and mean_logprob < INVENTED_LOGPROB else None


def loop_start(token_ids: list[int]) -> int | None:
    """Where the second round begins of a cycle with which `token_ids` end; None where they end with none.

    A cycle is at most LONGEST_CYCLE tokens that come three times or more in a row, MIN_LOOP tokens in all:
    "no, no, no" is none.
    """
    for cycle in range(1, LONGEST_CYCLE + 1):
        size = cycle * max(3, -(-MIN_LOOP // cycle))
        tail = token_ids[-size:]
        if len(tail) == size and tail[cycle:] == tail[:-cycle]:
            return len(token_ids) - size + cycle
    return None
