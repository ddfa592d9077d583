"""Held-out clips and every system -> artifacts/evaluate: answers.jsonl, scores.json."""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from speech_rba.alignment.reward_hacking import reward_hacking
from speech_rba.compute.device import fast_products
from speech_rba.config import Params
from speech_rba.data.measures import word_error_rate
from speech_rba.errors import UserError
from speech_rba.evaluation.instructions import followed, verdicts
from speech_rba.evaluation.items import Item, load_items
from speech_rba.evaluation.metrics import is_right, token_f1
from speech_rba.evaluation.parsing import chosen_letter, refuses
from speech_rba.evaluation.scoring import score_table
from speech_rba.evaluation.translation import sentence_chrf, translated
from speech_rba.model.answering import AlignedStudent
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.embedder import load_embedder
from speech_rba.model.logps import mutual_information
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.records import ALIGNMENT, Answer, Question, write_jsonl
from speech_rba.stages import main, publish

BATCH = 32  # answers scored at once
LIKE = 16  # characters
HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class Reading:
    """Prompts to answer: clips, or the texts of rows, each with the item it belongs to."""

    items: list[Item]
    prompts: list[SoftTokens]
    is_text: bool


def run(
    params: Params, rows: Path, features: Path, suites: Path, suite_features: Path, validation: Path, base: Path,
    methods: Path, out: Path,
) -> None:  # fmt: skip
    """Every system's answer to every held-out clip, scored; who reads text answers each prompt once.

    What validation scores, chooses; what the test scores, is reported. All answer in float32: in bfloat16 a greedy
    answer depends on the other rows of its batch. What several systems read alike is answered once, and what an adapter
    takes no part in by base.
    """
    started = time.perf_counter()
    unaligned, embed = AlignedStudent(base, None, torch.float32), load_embedder(params.assets.embedder)
    names = params.evaluate.suites
    items = load_items(unaligned.student, rows, features, suites, suite_features, validation, names)
    check_splits(items)
    answers, cost = answer_all(unaligned, embed, items, base, {m: methods / m for m in params.align.methods})
    for split in HELD_OUT:
        add_measures(
            unaligned.student, embed, [i for i in items if i.split == split], of_split(answers, split)
        )
    scores = report(params, items, answers, methods)
    scores |= {"cost": cost, "minutes": (time.perf_counter() - started) / 60}
    with publish(out) as folder:
        write_jsonl(folder / "answers.jsonl", answers)
        (folder / "scores.json").write_text(json.dumps(scores, indent=2))
    print(f"{len(answers)} answers of {len(scores['systems'])} systems in {scores['minutes']:.1f} minutes")


def check_splits(items: list[Item]) -> None:
    """Raises UserError where no clip of a synthesized row is left to choose by, or to report."""
    for split in HELD_OUT:
        if not any(item.suite == ALIGNMENT and item.split == split for item in items):
            raise UserError(f"no clip of a {split} row is left: raise synthesize.{split}_share")


def answer_all(
    unaligned: AlignedStudent, embed: Callable, items: list[Item], base: Path, adapters: dict[str, Path]
) -> tuple[list[Answer], list[dict]]:
    """The answers of text, cascade, base and every method, which also reads the texts; and what they cost."""
    student = unaligned.student
    first_of_row: dict[tuple[str, str], Item] = {}
    for item in items:
        first_of_row.setdefault((item.suite, item.row_id), item)
    once = list(first_of_row.values())
    written = Reading(once, student.text_prompts([item.prompt for item in once]), is_text=True)
    transcribed = Reading(
        items, student.text_prompts([item.judge_hypothesis for item in items]), is_text=False
    )
    spoken = Reading(items, [item.spoken for item in items], is_text=False)
    systems = {"text": (None, [written]), "cascade": (None, [transcribed]), "base": (None, [spoken])}
    systems |= {method: (adapter, [spoken, written]) for method, adapter in adapters.items()}
    answers, cost, unadapted = [], [], {}
    for system, (adapter, readings) in systems.items():
        answering = AlignedStudent(base, adapter, torch.float32) if adapter else unaligned
        for reading in readings:
            found, took = new_answers(answering, embed, system, reading, unadapted, adapter is not None)
            keys = [key_of(student, *pair) for pair in zip(reading.items, reading.prompts, strict=True)]
            known = unadapted | found
            answers += [
                answer_of(system, item, reading.is_text, *known[key])
                for item, key in zip(reading.items, keys, strict=True)
            ]
            if not adapter:
                unadapted = known
            if reading is readings[0]:
                cost.append(took)
    return answers, cost


def new_answers(
    answering: AlignedStudent, embed: Callable, system: str, reading: Reading, unadapted: dict, adapted: bool
) -> tuple[dict, dict]:
    """(response, metrics) by key of what `unadapted` does not tell already; and what that cost."""
    keys = [key_of(answering.student, *pair) for pair in zip(reading.items, reading.prompts, strict=True)]
    asked = dict(zip(keys, zip(reading.items, reading.prompts, strict=True), strict=True))
    new = [
        k for k, (_, prompt) in asked.items() if (answering.adapts(prompt) if adapted else k not in unadapted)
    ]
    items, prompts = [asked[key][0] for key in new], [asked[key][1] for key in new]
    began = time.perf_counter()
    with tqdm(total=len(prompts), desc=f"answer {system}", mininterval=2, disable=not prompts) as bar:
        responses, num_tokens = answering.respond(prompts, bar.update)
    took = {"tokens": num_tokens, "seconds": time.perf_counter() - began}
    audio_s = 0.0 if reading.is_text else sum(item.duration_s for item in items)
    metrics = score(answering, embed, system, items, prompts, responses)
    found = dict(zip(new, zip(responses, metrics, strict=True), strict=True))
    return found, cost_of(system, took, audio_s)


def of_split(answers: list[Answer], split: str) -> list[Answer]:
    return [answer for answer in answers if answer.split == split]


def add_measures(student: SpeechStudent, embed: Callable, items: list[Item], answers: list[Answer]) -> None:
    """Gives the answers of a split the measures that compare several texts."""
    judged = {(i.suite, i.row_id): i.prompt for i in items if i.suite == ALIGNMENT or i.question.judged}
    add_pmi(student, judged, answers)
    add_prompt_retrieval(embed, {i.row_id: i.prompt for i in items if i.suite == ALIGNMENT}, answers)


def report(params: Params, items: list[Item], answers: list[Answer], methods: Path) -> dict:
    """scores.json but for costs: the tables of the test, and those of validation by which is chosen."""
    systems = list(dict.fromkeys(answer.system for answer in answers))
    test, chosen_by = (
        score_table(of_split(answers, s), systems, params.evaluate) for s in ("test", "validation")
    )
    scores = {"systems": systems, **test, "validation": chosen_by["scores"]}
    watched, paired = params.evaluate.reward_hacking, chosen_by["paired"]
    scores["reward_hacking"] = {
        m: reward_hacking(methods / m, m, paired, watched) for m in params.align.methods
    }
    reported = of_split(answers, "test")
    scores["translated"] = translated(reported, {(i.suite, i.row_id): i.question.translations for i in items})
    scores["followed"] = followed(reported, {(i.suite, i.row_id): i.question.instructions for i in items})
    scores["wer"] = wer_table([item for item in items if item.split == "test"])
    return scores


def cost_of(system: str, took: dict, audio_s: float) -> dict:
    """Tokens a second, and seconds a second of the audio that was answered; None where nothing was."""
    speed = took["tokens"] / took["seconds"] if took["tokens"] else None
    factor = took["seconds"] / audio_s if audio_s else None
    return {"system": system, "tokens_per_s": speed, "real_time_factor": factor}


def key_of(student: SpeechStudent, item: Item, prompt: SoftTokens) -> tuple:
    """What two clips of a row have in common that are heard alike, and read alike by the unadapted student."""
    words = (prompt.ids, prompt.weights, prompt.hidden)
    sound = [prompt.attribute_features] if student.uses_attributes(prompt) else []
    return item.suite, item.row_id, *(tensor.numpy().tobytes() for tensor in (*words, *sound))


def score(
    answering: AlignedStudent,
    embed: Callable,
    system: str,
    items: list[Item],
    prompts: list[SoftTokens],
    responses: list[str],
) -> list[dict[str, float]]:
    """The metrics of each answer: teacher_similarity with the teacher on synthesized rows, and the verdict on a suite's."""
    metrics: list[dict[str, float]] = [{} for _ in items]
    aligned = [i for i, item in enumerate(items) if item.reference]
    aligned.sort(key=lambda i: like(items[i].prompt, items[i].reference))
    for start in tqdm(range(0, len(aligned), BATCH), desc=f"score {system}", mininterval=2):
        batch = aligned[start : start + BATCH]
        said, expected = [responses[i] for i in batch], [items[i].reference for i in batch]
        cosine = (embed(said) * embed(expected)).sum(-1).tolist()
        logps = teacher_logps(answering, [prompts[i] for i in batch], expected)
        for i, c, lp in zip(batch, cosine, logps, strict=True):
            f1 = token_f1(responses[i], items[i].reference)
            metrics[i] = {"token_f1": f1, "teacher_similarity": c, "teacher_logp": lp}
    for i, item in enumerate(items):
        metrics[i] |= {name: float(value) for name, value in verdict(item.question, responses[i]).items()}
        if item.question.translations:
            metrics[i]["chrf"] = sentence_chrf(responses[i], item.question.translations)
    return metrics


def verdict(question: Question, response: str) -> dict[str, bool]:
    """What is right or wrong about a response to a question of a suite."""
    if question.answers:
        return {"accuracy": is_right(response, question.answers, question.wrong)}
    if question.choice:
        letter = chosen_letter(response)
        return {"accuracy": letter == question.choice, "unparsed": letter is None}
    if question.refuse:
        return {"refused": refuses(response)}
    if question.instructions:
        found = verdicts(response, question.instructions)
        return {"followed": all(found["strict"]), "followed_loosely": all(found["loose"])}
    return {}


def like(prompt: str, response: str) -> tuple[int, int]:
    """By which texts of like lengths come together: a batch is padded to its longest prompt and longest response."""
    return len(prompt) // LIKE, len(response)


def answer_of(system: str, item: Item, is_text: bool, response: str, metrics: dict[str, float]) -> Answer:
    """The row of one answer; of one who reads the text, whatever the clip."""
    return Answer(
        suite=item.suite,
        split=item.split,
        row_id=item.row_id,
        clip_id="" if is_text else item.clip_id,
        system=system,
        condition="text" if is_text else item.condition,
        voice="" if is_text else item.voice,
        heldout_voice=False if is_text else item.heldout_voice,
        snr_db=None if is_text else item.snr_db,
        prompt=item.prompt,
        judge_hypothesis="" if is_text else item.judge_hypothesis,
        hypothesis=None if is_text else item.student_hypothesis,
        response=response,
        metrics=dict(metrics),
    )


def teacher_logps(answering: AlignedStudent, prompts: list[SoftTokens], references: list[str]) -> list[float]:
    """Mean log-probability a token, in nats, that a system gives to the words of the teacher's answers.

    Without the end of the answer: the teacher did not write one where the token limit cut it. Products are in the fast
    dtype: no choice hangs on a likelihood's third decimal.
    """
    ids = answering.student.tokenizer(references, add_special_tokens=False).input_ids
    with fast_products(answering.student.device):
        return [logp / len(i) for logp, i in zip(answering.logps(prompts, ids), ids, strict=True)]


def add_pmi(student: SpeechStudent, written: dict[tuple[str, str], str], answers: list[Answer]) -> None:
    """Gives each answer to a row of `written` its `teacher_pmi`: the mutual information of answer and written prompt.

    In nats a token, 0 for an empty answer, under the student's own language model, which is the teacher's unless
    params.yaml names two. What several systems answered alike is computed once.
    """
    mine = [answer for answer in answers if (answer.suite, answer.row_id) in written]
    pairs = list({((a.suite, a.row_id), a.response): None for a in mine if a.response.strip()})
    pairs.sort(key=lambda pair: like(written[pair[0]], pair[1]))
    found: dict[tuple[tuple[str, str], str], float] = {}
    for start in tqdm(range(0, len(pairs), BATCH), desc="mutual information", mininterval=2):
        batch = pairs[start : start + BATCH]
        prompts = student.text_prompts([written[row] for row, _ in batch])
        ids = student.tokenizer([response for _, response in batch], add_special_tokens=False).input_ids
        with fast_products(student.device):
            found |= dict(zip(batch, mutual_information(student, prompts, ids), strict=True))
    for answer in mine:
        answer.metrics["teacher_pmi"] = found.get(((answer.suite, answer.row_id), answer.response), 0.0)


def add_prompt_retrieval(embed: Callable, written: dict[str, str], answers: list[Answer]) -> None:
    """Gives each answer to a synthesized row its `prompt_retrieval_mrr`: whether one can tell from it what was asked.

    It is 1 over the rank of its own prompt among those of all `written`, by the cosine of answer and prompt. No
    reward knows these embeddings of prompts, and no teacher is asked.
    """
    mine = [answer for answer in answers if answer.suite == ALIGNMENT]
    rows, said = list(written), list(dict.fromkeys(answer.response for answer in mine))
    if not rows:
        return
    prompts_RE, said_NE = (
        torch.cat([embed(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])
        for texts in (list(written.values()), said)
    )
    cosines = dict(zip(said, said_NE @ prompts_RE.T, strict=True))
    for answer in mine:
        found = cosines[answer.response]
        answer.metrics["prompt_retrieval_mrr"] = 1 / (
            1 + (found > found[rows.index(answer.row_id)]).sum().item()
        )


def wer_table(items: list[Item]) -> list[dict]:
    """Word error rate of the 1-best, of Whisper as it came and of the student's asr_adapter, by suite and condition."""
    groups = defaultdict(list)
    for item in items:
        groups[item.suite, item.condition].append(item)
    return [
        {"suite": suite, "condition": condition, "asr_adapter": asr_adapter, "n": len(group)}
        | {"value": word_error_rate([i.prompt for i in group], [getattr(i, field) for i in group])}
        for (suite, condition), group in groups.items()
        for asr_adapter, field in (("Whisper", "judge_hypothesis"), ("student", "student_hypothesis"))
        if getattr(group[0], field) is not None
    ]


if __name__ == "__main__":
    main(run)
