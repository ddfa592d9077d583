"""Transcribes clips of any length: those longer than Whisper's window in pieces that are cut at pauses."""

from dataclasses import replace

import numpy as np
import torch

from speech_rba.model import audio_tower
from speech_rba.model.audio_tower import MAX_SECONDS, SAMPLING_RATE, AudioTower, Hypothesis
from speech_rba.model.speech_detection import WINDOW, speech_probabilities

# A piece has 8 to 28 s, so that there is a pause to choose and silence after it in the window; the last one
# may have 2 s.
MIN_PIECE, MAX_PIECE, MIN_LAST = (seconds * SAMPLING_RATE // WINDOW for seconds in (8, 28, 2))
PAUSE = 16  # windows of 32 ms: half a second, a pause between sentences
AS_GOOD = 0.05  # differences in the probability of speech below this are no reason to cut earlier
PIECES_AT_ONCE = 8  # 30 s windows that are encoded together
MAX_PIECE_TOKENS = 224  # as Whisper's front ends allow a window: half of its positions


def transcribe(
    tower: AudioTower, clips: list[np.ndarray], *, top_k: int, max_tokens: int, dtype: torch.dtype
) -> list[Hypothesis]:
    """The hypothesis of each clip (float32, 16 kHz mono), in order; `max_tokens` limits those of up to 30 s.

    Raises:
        UserError: a clip is empty.
    """
    long = [i for i, clip in enumerate(clips) if len(clip) > MAX_SECONDS * SAMPLING_RATE]
    short = [i for i in range(len(clips)) if i not in long]
    short_clips = [clips[i] for i in short]
    at_once = audio_tower.transcribe(tower, short_clips, top_k=top_k, max_tokens=max_tokens, dtype=dtype)
    by_place = dict(zip(short, at_once, strict=True))
    for i in long:
        by_place[i] = _transcribe_long(tower, clips[i], top_k, dtype)
    return [by_place[i] for i in range(len(clips))]


def _transcribe_long(tower: AudioTower, clip: np.ndarray, top_k: int, dtype: torch.dtype) -> Hypothesis:
    pieces = cut_at_pauses(clip)
    hypotheses: list[Hypothesis] = []
    for start in range(0, len(pieces), PIECES_AT_ONCE):
        batch = pieces[start : start + PIECES_AT_ONCE]
        limits = {"top_k": top_k, "max_tokens": MAX_PIECE_TOKENS}
        hypotheses += audio_tower.transcribe(tower, batch, **limits, dtype=dtype)
    return join(hypotheses, [len(piece) for piece in pieces])


def cut_at_pauses(clip: np.ndarray) -> list[np.ndarray]:
    """Pieces of at most 28 s whose concatenation is the clip; each ends where speech is least probable."""
    if len(clip) <= MAX_SECONDS * SAMPLING_RATE:
        return [clip]
    loud = clip / max(float(np.abs(clip).max()), 1e-9)  # quiet speech is improbable to the network
    speech = np.convolve(speech_probabilities(loud), np.full(PAUSE, 1 / PAUSE), mode="same")
    cuts = [0]
    while len(speech) - cuts[-1] > MAX_PIECE:
        start = cuts[-1] + MIN_PIECE
        costs = speech[start : min(cuts[-1] + MAX_PIECE, len(speech) - MIN_LAST)]
        cuts.append(start + int(np.flatnonzero(costs <= costs.min() + AS_GOOD)[-1]))
    return np.split(clip, [cut * WINDOW for cut in cuts[1:]])


def join(hypotheses: list[Hypothesis], lengths: list[int]) -> Hypothesis:
    """The hypothesis of a clip, from those of its pieces and their lengths in samples.

    Pieces without a token are left out, unless all are. The deviation of the attribute features is that over
    all frames: the mean of the pieces' variances and the variance of their means.
    """
    spoken = [(h, length) for h, length in zip(hypotheses, lengths, strict=True) if len(h.token_ids)]
    if not spoken:
        return hypotheses[0]
    kept = [h for h, _ in spoken]
    shares = torch.tensor([length for _, length in spoken], dtype=torch.float32)
    shares = (shares / shares.sum())[:, None]
    means, deviations = torch.stack([h.attribute_features for h in kept]).chunk(2, dim=1)
    mean = (shares * means).sum(0)
    variance = (shares * (deviations.square() + (means - mean).square())).sum(0)
    steps = np.array([len(h.token_ids) + 1 for h in kept])  # with the end token
    return replace(
        kept[0],
        token_ids=torch.cat([h.token_ids for h in kept]),
        top_ids=torch.cat([h.top_ids for h in kept]),
        top_probs=torch.cat([h.top_probs for h in kept]),
        hidden=torch.cat([h.hidden for h in kept]),
        attribute_features=torch.cat([mean, variance.sqrt()]),
        mean_logprob=float(np.average([h.mean_logprob for h in kept], weights=steps)),
    )
