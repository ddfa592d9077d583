"""Held-out clips and every system -> artifacts/evaluate: answers.jsonl, scores.json."""

import json
import time
from collections import defaultdict
from pathlib import Path

import torch
from tqdm import tqdm

from speech_rba.data.measures import word_error_rate
from speech_rba.evaluation.metrics import contains_answer, token_f1
from speech_rba.evaluation.scoring import score_table
from speech_rba.evaluation.suites import Item, load_items
from speech_rba.model.answer import load_student
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.embedder import load_embedder
from speech_rba.model.language import fast_dtype
from speech_rba.model.logps import sequence_logps
from speech_rba.model.student import Student
from speech_rba.model.text import whole_sentences
from speech_rba.params import Params
from speech_rba.records import Answer, Clip, read_jsonl, write_jsonl
from speech_rba.stages import main, publish


def run(
    params: Params, data: Path, rows: Path, voice: Path, features: Path, validation: Path, base: Path, methods: Path,
    out: Path,
) -> None:  # fmt: skip
    """Every system's answer to every held-out clip, scored; the text system answers each prompt once."""
    started = time.perf_counter()
    student = load_student(base, None, fast_dtype())
    items = load_items(student, data, rows, features, validation, params.evaluate.suites)
    first = {item.row_id: item for item in reversed(items)}  # a row's text is answered once
    texts, heard = student.read([i.prompt for i in first.values()]), student.read([i.heard for i in items])
    spoken = [i.spoken for i in items]
    responses, cost = {}, []
    seconds = {c.id: c.duration_s for c in read_jsonl(voice / "manifest.jsonl", Clip)}
    audio_s = sum(seconds.get(i.clip_id, 0.0) for i in items)
    for system, prompts in (("text", texts), ("cascade", heard), ("base", spoken)):
        responses[system] = timed_answers(student, prompts, params, system, cost, audio_s)
    for folder in sorted((p for p in methods.iterdir() if p.is_dir()), key=lambda p: ("sft", "rba").index(p.name)):
        aligned = load_student(base, folder, fast_dtype())
        responses[folder.name] = timed_answers(aligned, spoken, params, folder.name, cost, audio_s)
    answers = []
    embed = load_embedder(params.assets.embedder)
    for system, found in responses.items():
        chosen = list(first.values()) if system == "text" else items
        answers += score(student, embed, system, chosen, found)
    scores = {"systems": list(responses), **score_table(answers, list(responses), params.evaluate)}
    scores |= {"cost": cost, "wer": hearing(items), "minutes": (time.perf_counter() - started) / 60}
    with publish(out) as folder:
        write_jsonl(folder / "answers.jsonl", answers)
        (folder / "scores.json").write_text(json.dumps(scores, indent=2))
    print(f"{len(answers)} answers of {len(responses)} systems in {scores['minutes']:.1f} minutes")


def timed_answers(
    student: Student, prompts: list[SoftTokens], params: Params, system: str, cost: list, audio_s: float
) -> list[str]:
    """The whole sentences of each greedy answer; appends tokens a second and the real-time factor to `cost`."""
    began = time.perf_counter()
    with tqdm(total=len(prompts), desc=f"answer {system}", mininterval=2) as bar:
        ids = student.answer(
            prompts,
            max_new_tokens=params.evaluate.max_completion_tokens,
            temperature=0.0,
            top_p=1.0,
            seed=params.evaluate.seed,
            batch_size=params.evaluate.batch_size,
            on_batch=bar.update,
        )
    took = time.perf_counter() - began
    factor = took / audio_s if audio_s and system != "text" else None
    cost.append({"system": system, "tokens_per_s": sum(map(len, ids)) / took, "real_time_factor": factor})
    eos = student.tokenizer.eos_token_id
    return [whole_sentences(student.tokenizer.decode([t for t in i if t != eos]), i[-1] == eos) for i in ids]


def score(teacher: Student, embed, system: str, items: list[Item], responses: list[str]) -> list[Answer]:
    """The answers with their metrics: agreement with the teacher on synthesized rows, accuracy on questions."""
    metrics: list[dict[str, float]] = [{} for _ in items]
    aligned = [i for i, item in enumerate(items) if item.reference]
    for start in range(0, len(aligned), 32):
        batch = aligned[start : start + 32]
        said = [responses[i] for i in batch]
        expected = [items[i].reference for i in batch]
        cosine = (embed(said) * embed(expected)).sum(-1).tolist()
        logps = teacher_logp(teacher, [items[i].prompt for i in batch], said)
        for i, c, lp in zip(batch, cosine, logps, strict=True):
            metrics[i] = {"token_f1": token_f1(responses[i], items[i].reference), "agreement": c, "teacher_logp": lp}
    for i, item in enumerate(items):
        if item.answers:
            metrics[i] = {"accuracy": float(contains_answer(responses[i], item.answers))}
    text = system == "text"
    return [
        Answer(
            suite=item.suite,
            row_id=item.row_id,
            clip_id="" if text else item.clip_id,
            system=system,
            condition="text" if text else item.condition,
            voice="" if text else item.voice,
            heldout_voice=False if text else item.heldout_voice,
            snr_db=None if text else item.snr_db,
            heard="" if text else item.heard,
            response=response,
            metrics=found,
        )
        for item, response, found in zip(items, responses, metrics, strict=True)
    ]


def teacher_logp(teacher: Student, prompts: list[str], responses: list[str]) -> list[float]:
    """Mean log-probability a token, in nats, of each response under the teacher that reads the prompt."""
    eos = teacher.tokenizer.eos_token_id
    ids = [[*teacher.tokenizer(r, add_special_tokens=False).input_ids, eos] for r in responses]
    totals = sequence_logps(teacher, teacher.read(prompts), ids)
    return (totals / torch.tensor([len(i) for i in ids])).tolist()


def hearing(items: list[Item]) -> list[dict]:
    """Word error rate of the 1-best by suite and condition."""
    groups = defaultdict(list)
    for item in items:
        groups[item.suite, item.condition].append(item)
    return [
        {"suite": s, "condition": c, "value": word_error_rate([i.prompt for i in g], [i.heard for i in g]), "n": len(g)}
        for (s, c), g in groups.items()
    ]


if __name__ == "__main__":
    main(run)
