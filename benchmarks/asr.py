"""What each part of the student's wer_table is worth: `make ablation`, after `make run`, prints a Markdown table.

Every variant hears the accepted test clips of the suites and answers with the language model before alignment, so that
only the wer_table differs. Groups are clean speech, the conditions of training, and those kept out of it.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
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
from speech_rba.model.answer import AlignedStudent
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
RIVAL = "Whisper, 1-best (the cascade)"
WHISPER, ASR_ADAPTER, BEAMS = "Whisper as it came", "asr_adapter", "asr_adapter, 5 beams"
NUM_BEAMS = 5
ALWAYS, NEVER, DOUBT = 0.0, 1000.0, load_params().base.min_asr_uncertainty
VARIANTS = {  # what hears, alternatives a position, temperature, asr_uncertainty from which on they are hypotheses, attribute_features
    RIVAL: (WHISPER, 1, 1.0, NEVER, False),
    "Whisper, 8 soft, temperature 0.5": (WHISPER, 8, 0.5, ALWAYS, False),
    "asr_adapter, 1-best": (ASR_ADAPTER, 1, 1.0, NEVER, False),
    "asr_adapter, 2 soft, temperature 0.5": (ASR_ADAPTER, 2, 0.5, ALWAYS, False),
    "asr_adapter, 8 soft, temperature 1": (ASR_ADAPTER, 8, 1.0, ALWAYS, False),
    "asr_adapter, 8 soft, temperature 0.5": (ASR_ADAPTER, 8, 0.5, ALWAYS, False),
    "asr_adapter, 5 beams merged": (BEAMS, NUM_BEAMS, 1.0, ALWAYS, False),
    "asr_adapter, 8 soft in asr_uncertainty, temperature 0.5": (ASR_ADAPTER, 8, 0.5, DOUBT, False),
    "asr_adapter, 8 soft in asr_uncertainty, temperature 0.5, attribute_features": (
        ASR_ADAPTER,
        8,
        0.5,
        DOUBT,
        True,
    ),
}


def main() -> None:
    params, unaligned = load_params(), AlignedStudent(ARTIFACTS / "base", None, torch.float32)
    tower = unaligned.student.audio_tower
    questions = {name: SUITES / name / "questions.jsonl" for name in params.evaluate.suites}
    asked = {(name, q.id): q for name, path in questions.items() for q in read_jsonl(path, Question)}
    accepted = read_jsonl(ARTIFACTS / "validate/accepted_suites.jsonl", Clip)
    clips = sorted((c for c in accepted if c.split == "test"), key=lambda c: (c.duration_s, c.id))
    hypotheses, ms = {}, {}
    whisper = load_audio_tower(params.assets.audio_tower, None)
    for source, asr_adapter in ((WHISPER, whisper), (ASR_ADAPTER, tower), (BEAMS, tower)):
        started = time.perf_counter()
        hypotheses[source] = list(encode_audio(asr_adapter, clips, source))
        ms[source] = 1000 * (time.perf_counter() - started) / len(clips)
    right = {
        name: answered(unaligned, clips, asked, hypotheses[v[0]], *v[1:]) for name, v in VARIANTS.items()
    }
    show(params, clips, right, ms)


def encode_audio(tower: AudioTower, clips: list[Clip], source: str) -> Iterator[Hypothesis]:
    """What a tower hears in each clip, in order."""
    for start in tqdm(range(0, len(clips), BATCH), desc=source, mininterval=2):
        audio = [read_audio(SUITES / c.suite / c.path) for c in clips[start : start + BATCH]]
        if source == BEAMS:
            yield from transcribe_beams(tower, audio)
        else:
            yield from transcribe(tower, audio, top_k=8, max_tokens=MAX_TOKENS, dtype=fast_dtype())


@torch.inference_mode()
def transcribe_beams(tower: AudioTower, audio: list[np.ndarray]) -> Iterator[Hypothesis]:
    """The confusion network of several beams as one Hypothesis: words that beams differ in are each other's alternatives."""
    states, attribute_features = encode(tower, audio, fast_dtype())
    start = torch.tensor([start_ids(tower.tokenizer)] * len(audio))
    found = GenerationMixin.generate(
        tower.model, encoder_outputs=BaseModelOutput(states), decoder_input_ids=start, max_new_tokens=MAX_TOKENS,
        num_beams=NUM_BEAMS, num_return_sequences=NUM_BEAMS, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    end = tower.model.config.eos_token_id
    beams = [[i for i in row[start.shape[1] :].tolist() if i != end] for row in found.sequences]
    for place, sound in enumerate(attribute_features):
        span = slice(place * NUM_BEAMS, (place + 1) * NUM_BEAMS)
        lengths = torch.tensor([len(beam) + 1.0 for beam in beams[span]])
        yield merged(beams[span], (found.sequences_scores[span] * lengths).softmax(0).tolist(), sound)


def merged(beams: list[list[int]], weights: list[float], sound: torch.Tensor) -> Hypothesis:
    """Beams aligned to the first, which is the best, by their longest common runs; left out are words it has not."""
    best = beams[0]
    votes = [Counter() for _ in best]
    for beam, weight in zip(beams, weights, strict=True):
        for _, i, i_end, j, j_end in SequenceMatcher(None, best, beam, autojunk=False).get_opcodes():
            if i_end - i == j_end - j:
                for k in range(i_end - i):
                    votes[i + k][beam[j + k]] += weight
    ranked = [(v + Counter({best[t]: 1e-9})).most_common(NUM_BEAMS) for t, v in enumerate(votes)]
    ranked = [row + [(row[0][0], 0.0)] * (NUM_BEAMS - len(row)) for row in ranked]
    ids = torch.tensor([[i for i, _ in row] for row in ranked]).reshape(-1, NUM_BEAMS)
    probs = torch.tensor([[p for _, p in row] for row in ranked]).reshape(-1, NUM_BEAMS)
    return Hypothesis(ids[:, 0], ids, probs, torch.zeros(len(ids), len(sound) // 2), sound, 0.0)


def answered(
    unaligned: AlignedStudent, clips: list[Clip], asked: dict, hypotheses: list[Hypothesis], top_k: int,
    temperature: float, min_asr_uncertainty: float, attribute_features: bool,
) -> list[float]:  # fmt: skip
    """1 for each clip whose answer is right, else 0."""
    student = unaligned.student
    student.config.soft_top_k, student.config.soft_temperature = top_k, temperature
    student.config.min_asr_uncertainty = min_asr_uncertainty
    prompts = [student.build_prompt(h) for h in hypotheses]
    if not attribute_features:
        prompts = [replace(p, attribute_features=torch.empty(0)) for p in prompts]
    with tqdm(total=len(prompts), desc="answer", mininterval=2) as bar:
        texts, _ = unaligned.respond(prompts, bar.update)
    questions = [asked[c.suite, c.row_id] for c in clips]
    return [float(is_right(t, q.answers, q.wrong)) for t, q in zip(texts, questions, strict=True)]


def show(params: Params, clips: list[Clip], right: dict[str, list[float]], ms: dict[str, float]) -> None:
    """Accuracy by suite and group, and what a variant has more than the cascade, with its 95 % interval."""
    groups: dict[str, list[int]] = {}
    for place, clip in enumerate(clips):
        kind = "clean" if clip.condition == "clean" else "held-out" if clip.heldout_condition else "degraded"
        groups.setdefault(f"{clip.suite}, {kind}", []).append(place)
    names = sorted(groups)
    head = ["wer_table", "ms a clip", *(f"{name}, n {len(groups[name])}" for name in names)]
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for variant, scores in right.items():
        cells = [variant, f"{ms[VARIANTS[variant][0]]:.0f}"]
        for name in names:
            mine, rival = ([scores_of[i] for i in groups[name]] for scores_of in (scores, right[RIVAL]))
            rows = [clips[i].row_id for i in groups[name]]
            gain, low, high, _ = paired_bootstrap(mine, rival, params.evaluate.num_bootstrap, 0, rows)
            cells.append(
                f"{100 * sum(mine) / len(mine):.1f} ({100 * gain:+.1f} [{100 * low:.1f}, {100 * high:.1f}])"
            )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if not (ARTIFACTS / "validate/accepted.jsonl").exists():
        sys.exit("error: artifacts/ is empty: run `make run` first")
    main()
