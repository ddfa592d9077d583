"""What each part of the student's speech recognition is worth: `make ablation`, after `make run`, prints a
Markdown table.

Every variant transcribes the accepted test clips of the suites and answers with the language model before
alignment, so that only the recognition differs. Groups are clean speech, the conditions of training, and the
held-out conditions.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from speech_rba.compute.device import fast_dtype
from speech_rba.config import Params, load_params
from speech_rba.data.audio import read_audio
from speech_rba.evaluation.metrics import is_right
from speech_rba.evaluation.statistics import paired_bootstrap
from speech_rba.model.answering import AlignedStudent
from speech_rba.model.audio_tower import (
    AudioTower,
    Hypothesis,
    encode,
    load_audio_tower,
    start_ids,
    transcribe,
)
from speech_rba.records import Clip, Question, read_jsonl

ARTIFACTS = Path("artifacts")
SUITES = ARTIFACTS / "suites"
BATCH, MAX_TOKENS = 32, 48
WHISPER, ASR_ADAPTER, BEAMS = "unadapted Whisper", "ASR adapter", "ASR adapter, 5 beams"
NUM_BEAMS = 5
ALWAYS, NEVER = 0.0, 1000.0  # as thresholds of the ASR uncertainty


@dataclass(frozen=True)
class Variant:
    """A source of hypotheses, and how they become prompts: soft tokens from an ASR uncertainty on."""

    source: str
    top_k: int
    temperature: float
    min_asr_uncertainty: float
    attribute_features: bool = False


CASCADE = "Whisper, 1-best (the cascade)"
VARIANTS = {
    CASCADE: Variant(WHISPER, 1, 1.0, NEVER),
    "Whisper, 8 soft, temperature 0.5": Variant(WHISPER, 8, 0.5, ALWAYS),
    "ASR adapter, 1-best": Variant(ASR_ADAPTER, 1, 1.0, NEVER),
    "ASR adapter, 2 soft, temperature 0.5": Variant(ASR_ADAPTER, 2, 0.5, ALWAYS),
    "ASR adapter, 8 soft, temperature 1": Variant(ASR_ADAPTER, 8, 1.0, ALWAYS),
    "ASR adapter, 8 soft, temperature 0.5": Variant(ASR_ADAPTER, 8, 0.5, ALWAYS),
    "ASR adapter, 5 beams merged": Variant(BEAMS, NUM_BEAMS, 1.0, ALWAYS),
}
UNCERTAIN = "ASR adapter, 8 soft if uncertain, temperature 0.5"


def all_variants(params: Params) -> dict[str, Variant]:
    """The variants, with those at the student's own threshold."""
    uncertain = Variant(ASR_ADAPTER, 8, 0.5, params.base.min_asr_uncertainty)
    with_attributes = replace(uncertain, attribute_features=True)
    return VARIANTS | {UNCERTAIN: uncertain, f"{UNCERTAIN}, attribute features": with_attributes}


def main() -> None:
    params, unaligned = load_params(), AlignedStudent(ARTIFACTS / "base", None, torch.float32)
    variants = all_variants(params)
    accepted = read_jsonl(ARTIFACTS / "validate/accepted_suites.jsonl", Clip)
    clips = sorted((c for c in accepted if c.split == "test"), key=lambda c: (c.duration_s, c.id))
    questions = clip_questions(params, clips)
    hypotheses, ms = {}, {}
    whisper, adapted = load_audio_tower(params.assets.audio_tower, None), unaligned.student.audio_tower
    for source, tower in ((WHISPER, whisper), (ASR_ADAPTER, adapted), (BEAMS, adapted)):
        started = time.perf_counter()
        hypotheses[source] = list(transcribe_clips(tower, clips, source))
        ms[source] = 1000 * (time.perf_counter() - started) / len(clips)
    right = {
        name: answer_correctly(unaligned, questions, hypotheses[variant.source], variant)
        for name, variant in variants.items()
    }
    show(params, clips, right, {name: ms[variant.source] for name, variant in variants.items()})


def clip_questions(params: Params, clips: list[Clip]) -> list[Question]:
    """The question of each clip."""
    paths = {name: SUITES / name / "questions.jsonl" for name in params.evaluate.suites}
    by_id = {(name, q.id): q for name, path in paths.items() for q in read_jsonl(path, Question)}
    return [by_id[c.suite, c.row_id] for c in clips]


def transcribe_clips(tower: AudioTower, clips: list[Clip], source: str) -> Iterator[Hypothesis]:
    """The tower's hypothesis of each clip, in order."""
    for start in tqdm(range(0, len(clips), BATCH), desc=source, mininterval=2):
        audio = [read_audio(SUITES / c.suite / c.path) for c in clips[start : start + BATCH]]
        if source == BEAMS:
            yield from transcribe_beams(tower, audio)
        else:
            yield from transcribe(tower, audio, top_k=8, max_tokens=MAX_TOKENS, dtype=fast_dtype())


@torch.inference_mode()
def transcribe_beams(tower: AudioTower, audio: list[np.ndarray]) -> Iterator[Hypothesis]:
    """The confusion network of several beams as one Hypothesis: words in which beams differ are
    alternatives."""
    states, attribute_features = encode(tower, audio, fast_dtype())
    start = torch.tensor([start_ids(tower.tokenizer)] * len(audio), device=states.device)
    output = GenerationMixin.generate(
        tower.model,
        encoder_outputs=BaseModelOutput(states),
        decoder_input_ids=start,
        max_new_tokens=MAX_TOKENS,
        num_beams=NUM_BEAMS,
        num_return_sequences=NUM_BEAMS,
        return_dict_in_generate=True,
        output_scores=True,
    )
    beams = [[i for i in row[start.shape[1] :].tolist() if i != tower.end_id] for row in output.sequences]
    scores = output.sequences_scores.cpu()
    for place, features in enumerate(attribute_features.cpu()):
        span = slice(place * NUM_BEAMS, (place + 1) * NUM_BEAMS)
        lengths = torch.tensor([len(beam) + 1.0 for beam in beams[span]])
        yield merged(beams[span], (scores[span] * lengths).softmax(0).tolist(), features)


def merged(beams: list[list[int]], weights: list[float], attribute_features: torch.Tensor) -> Hypothesis:
    """Beams aligned to the first, the best, by their longest common runs; words that it lacks are left
    out."""
    best = beams[0]
    votes: list[Counter] = [Counter() for _ in best]
    for beam, weight in zip(beams, weights, strict=True):
        for _, i, i_end, j, j_end in SequenceMatcher(None, best, beam, autojunk=False).get_opcodes():
            if i_end - i == j_end - j:
                for k in range(i_end - i):
                    votes[i + k][beam[j + k]] += weight
    ranked = [(v + Counter({best[t]: 1e-9})).most_common(NUM_BEAMS) for t, v in enumerate(votes)]
    ranked = [row + [(row[0][0], 0.0)] * (NUM_BEAMS - len(row)) for row in ranked]
    ids = torch.tensor([[i for i, _ in row] for row in ranked]).reshape(-1, NUM_BEAMS)
    probs = torch.tensor([[p for _, p in row] for row in ranked]).reshape(-1, NUM_BEAMS)
    hidden = torch.zeros(len(ids), len(attribute_features) // 2)
    return Hypothesis(ids[:, 0], ids, probs, hidden, attribute_features, 0.0)


def answer_correctly(
    unaligned: AlignedStudent, questions: list[Question], hypotheses: list[Hypothesis], variant: Variant
) -> list[float]:
    """1 for each clip with a right answer, else 0."""
    student = unaligned.student
    student.config.soft_top_k, student.config.soft_temperature = variant.top_k, variant.temperature
    student.config.min_asr_uncertainty = variant.min_asr_uncertainty
    prompts = [student.build_prompt(h) for h in hypotheses]
    if not variant.attribute_features:
        prompts = [replace(p, attribute_features=torch.empty(0)) for p in prompts]
    with tqdm(total=len(prompts), desc="answer", mininterval=2) as bar:
        texts, _ = unaligned.respond(prompts, bar.update)
    return [float(is_right(t, q.answers, q.wrong)) for t, q in zip(texts, questions, strict=True)]


def show(params: Params, clips: list[Clip], right: dict[str, list[float]], ms: dict[str, float]) -> None:
    """Prints accuracy by suite and group, and its difference from the cascade with its 95 % interval."""
    groups: dict[str, list[int]] = {}
    for place, clip in enumerate(clips):
        kind = "clean" if clip.condition == "clean" else "held-out" if clip.heldout_condition else "degraded"
        groups.setdefault(f"{clip.suite}, {kind}", []).append(place)
    names = sorted(groups)
    head = ["recognition", "ms a clip", *(f"{name}, n {len(groups[name])}" for name in names)]
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for variant, scores in right.items():
        cells = [variant, f"{ms[variant]:.0f}"]
        for name in names:
            group_scores, of_cascade = ([x[i] for i in groups[name]] for x in (scores, right[CASCADE]))
            rows = [clips[i].row_id for i in groups[name]]
            cells.append(cell(group_scores, of_cascade, params.evaluate.num_bootstrap, rows))
        print(f"| {' | '.join(cells)} |", flush=True)


def cell(scores: list[float], of_cascade: list[float], num_bootstrap: int, rows: list[str]) -> str:
    """Accuracy, and in brackets its difference from the cascade with its 95 % interval, in percent."""
    gain, low, high, _ = paired_bootstrap(scores, of_cascade, num_bootstrap, 0, rows)
    return f"{100 * sum(scores) / len(scores):.1f} ({100 * gain:+.1f} [{100 * low:.1f}, {100 * high:.1f}])"


if __name__ == "__main__":
    if not (ARTIFACTS / "validate/accepted.jsonl").exists():
        sys.exit("error: artifacts/ is empty: run `make run` first")
    main()
