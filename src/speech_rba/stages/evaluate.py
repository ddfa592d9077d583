"""Held-out clips and every system -> artifacts/evaluate: answers.jsonl, scores.json."""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from speech_rba.data.measures import word_error_rate
from speech_rba.errors import UserError
from speech_rba.evaluation.alarms import alarms
from speech_rba.evaluation.instructions import followed, verdicts
from speech_rba.evaluation.metrics import is_right, token_f1
from speech_rba.evaluation.parsing import chosen_letter, refuses
from speech_rba.evaluation.scoring import score_table
from speech_rba.evaluation.suites import Item, Spoil, load_items
from speech_rba.evaluation.translation import sentence_chrf, translated
from speech_rba.model.answer import AlignedStudent
from speech_rba.model.bridge import SoftTokens
from speech_rba.model.embedder import load_embedder
from speech_rba.model.language import fast_products
from speech_rba.model.speech_student import SpeechStudent
from speech_rba.model.text import whole_sentences
from speech_rba.params import Params
from speech_rba.records import ALIGNMENT, Answer, Clip, Question, read_jsonl, write_jsonl
from speech_rba.stages import main, publish
from speech_rba.synthesis import augment, voices
from speech_rba.synthesis.conditions import CONDITIONS, SOUND, draw_strength, in_turn
from speech_rba.training.rewards import teacher_pmi

BATCH = 32  # answers scored at once
LIKE = 16  # characters
RECORDING_DB = -24.0  # the level of a spoiled recording, dB relative to full scale (RMS)


def run(
    params: Params, data: Path, rows: Path, voice: Path, features: Path, validation: Path, base: Path, methods: Path,
    out: Path,
) -> None:  # fmt: skip
    """Every system's answer to every held-out clip, scored; the text system answers each prompt once.

    All answer in float32: in bfloat16 a greedy answer depends on the other rows of its batch. What several systems read
    alike is answered once, and what an adapter takes no part in by base.
    """
    started = time.perf_counter()
    unaligned, embed = AlignedStudent(base, None, torch.float32), load_embedder(params.assets.embedder)
    student = unaligned.student
    spoil = spoiler(params, data)
    items = load_items(student, data, rows, features, validation, params.evaluate.suites, spoil)
    if not any(item.suite == ALIGNMENT for item in items):
        raise UserError("no clip of a held-out row is left to tell what alignment did: raise synthesize.test_share")
    once = list({(item.suite, item.row_id): item for item in reversed(items)}.values())
    texts, heard = student.read([i.prompt for i in once]), student.read([i.heard for i in items])
    spoken = [i.spoken for i in items]
    seconds = {c.id: c.duration_s for c in read_jsonl(voice / "manifest.jsonl", Clip)}
    systems = {"text": (None, once, texts), "cascade": (None, items, heard), "base": (None, items, spoken)}
    systems |= {method: (methods / method, items, spoken) for method in params.align.methods}
    answers, cost, unadapted = [], [], {}
    for system, (adapter, chosen, prompts) in systems.items():
        answering = AlignedStudent(base, adapter, torch.float32) if adapter else unaligned
        keys = [key_of(student, item, prompt) for item, prompt in zip(chosen, prompts, strict=True)]
        asked = dict(zip(keys, zip(chosen, prompts, strict=True), strict=True))
        new = [k for k, (_, prompt) in asked.items() if (answering.adapts(prompt) if adapter else k not in unadapted)]
        some, read = [asked[key][0] for key in new], [asked[key][1] for key in new]
        responses, took = timed_answers(answering, read, params, system)
        cost.append(cost_of(system, took, sum(seconds.get(item.clip_id, 0.0) for item in some)))
        metrics = score(answering, embed, system, some, read, responses)
        found = unadapted | dict(zip(new, zip(responses, metrics, strict=True), strict=True))
        unadapted = unadapted if adapter else found
        answers += [answer_of(system, item, *found[key]) for item, key in zip(chosen, keys, strict=True)]
    judged = {(i.suite, i.row_id): i.prompt for i in items if i.suite == ALIGNMENT or i.question.judged}
    add_pmi(unaligned.student, judged, answers)
    add_relevance(embed, {i.row_id: i.prompt for i in items if i.suite == ALIGNMENT}, answers)
    scores = {"systems": list(systems), **score_table(answers, list(systems), params.evaluate)}
    watched = params.evaluate.alarms
    scores["alarms"] = {m: alarms(methods / m, m, scores["paired"], watched) for m in params.align.methods}
    scores["translated"] = translated(answers, {(i.suite, i.row_id): i.question.translations for i in items})
    scores["followed"] = followed(answers, {(i.suite, i.row_id): i.question.instructions for i in items})
    scores |= {"cost": cost, "wer": hearing(items), "minutes": (time.perf_counter() - started) / 60}
    with publish(out) as folder:
        write_jsonl(folder / "answers.jsonl", answers)
        (folder / "scores.json").write_text(json.dumps(scores, indent=2))
    print(f"{len(answers)} answers of {len(systems)} systems in {scores['minutes']:.1f} minutes")


def spoiler(params: Params, data: Path) -> Spoil:
    """What puts a recording into the conditions whose turn it is, besides leaving it as it is."""

    def draw_talkers(rng: np.random.Generator) -> list[np.ndarray]:
        talkers = voices.plan_talkers(params.voice.heldout_voices, data)
        chosen = rng.choice(len(talkers), augment.NUM_TALKERS, replace=False)
        return [voices.talk(*talkers[i]) for i in chosen]

    def spoil(audio: np.ndarray, number: int) -> list[tuple[str, float | None, np.ndarray]]:
        takes = [("clean", None, audio)]
        for name in in_turn(SOUND, number, params.evaluate.conditions_per_recording):
            rng = np.random.default_rng([params.evaluate.seed, number])
            strength = draw_strength(name, params.voice, rng)
            spoiled = CONDITIONS[name].spoil(audio, strength, rng, draw_talkers)
            takes.append((name, strength.get("snr_db"), augment.at_level(spoiled, RECORDING_DB)))
        return takes

    return spoil


def timed_answers(
    answering: AlignedStudent, prompts: list[SoftTokens], params: Params, system: str
) -> tuple[list[str], dict]:
    """The whole sentences of each greedy answer, of a cut one without any what there is; and {tokens, seconds}."""
    began = time.perf_counter()
    with tqdm(total=len(prompts), desc=f"answer {system}", mininterval=2) as bar:
        ids = answering.answer(
            prompts,
            max_new_tokens=params.evaluate.max_completion_tokens,
            temperature=0.0,
            top_p=1.0,
            seed=params.evaluate.seed,
            batch_size=params.evaluate.batch_size,
            on_batch=bar.update,
        )
    took = {"tokens": sum(map(len, ids)), "seconds": time.perf_counter() - began}
    tokenizer = answering.student.tokenizer
    texts = [tokenizer.decode(i, skip_special_tokens=True).strip() for i in ids]
    return [whole_sentences(t, i[-1] == tokenizer.eos_token_id) or t for t, i in zip(texts, ids, strict=True)], took


def cost_of(system: str, took: dict, audio_s: float) -> dict:
    """Tokens a second, and seconds a second of the audio that was answered; None where nothing was."""
    speed = took["tokens"] / took["seconds"] if took["tokens"] else None
    factor = took["seconds"] / audio_s if audio_s and system != "text" else None
    return {"system": system, "tokens_per_s": speed, "real_time_factor": factor}


def key_of(student: SpeechStudent, item: Item, prompt: SoftTokens) -> tuple:
    """What two clips of a row have in common that are heard alike, and read alike by the unadapted student."""
    words = (prompt.ids, prompt.weights, prompt.hidden)
    sound = [prompt.acoustics] if student.sounds(prompt) else []
    return item.suite, item.row_id, *(tensor.numpy().tobytes() for tensor in (*words, *sound))


def score(
    answering: AlignedStudent,
    embed: Callable,
    system: str,
    items: list[Item],
    prompts: list[SoftTokens],
    responses: list[str],
) -> list[dict[str, float]]:
    """The metrics of each answer: agreement with the teacher on synthesized rows, and the verdict on a suite's."""
    metrics: list[dict[str, float]] = [{} for _ in items]
    aligned = [i for i, item in enumerate(items) if item.reference]
    aligned.sort(key=lambda i: like(items[i].prompt, items[i].reference))
    for start in tqdm(range(0, len(aligned), BATCH), desc=f"score {system}", mininterval=2):
        batch = aligned[start : start + BATCH]
        said, expected = [responses[i] for i in batch], [items[i].reference for i in batch]
        cosine = (embed(said) * embed(expected)).sum(-1).tolist()
        logps = reference_logps(answering, [prompts[i] for i in batch], expected)
        for i, c, lp in zip(batch, cosine, logps, strict=True):
            f1 = token_f1(responses[i], items[i].reference)
            metrics[i] = {"token_f1": f1, "agreement": c, "reference_logp": lp}
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


def answer_of(system: str, item: Item, response: str, metrics: dict[str, float]) -> Answer:
    """The row of one answer; the text system reads the prompt, whatever the clip."""
    text = system == "text"
    return Answer(
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
        metrics=metrics,
    )


def reference_logps(answering: AlignedStudent, prompts: list[SoftTokens], references: list[str]) -> list[float]:
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
        prompts = student.read([written[row] for row, _ in batch])
        ids = student.tokenizer([response for _, response in batch], add_special_tokens=False).input_ids
        with fast_products(student.device):
            found |= dict(zip(batch, teacher_pmi(student, prompts, ids), strict=True))
    for answer in mine:
        answer.metrics["teacher_pmi"] = found.get(((answer.suite, answer.row_id), answer.response), 0.0)


def add_relevance(embed: Callable, written: dict[str, str], answers: list[Answer]) -> None:
    """Gives each answer to a synthesized row its `relevance`: whether one can tell from it what was asked.

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
        answer.metrics["relevance"] = 1 / (1 + (found > found[rows.index(answer.row_id)]).sum().item())


def hearing(items: list[Item]) -> list[dict]:
    """Word error rate of the 1-best, of Whisper as it came and of the student's ears, by suite and condition."""
    groups = defaultdict(list)
    for item in items:
        groups[item.suite, item.condition].append(item)
    return [
        {"suite": suite, "condition": condition, "ears": ears, "n": len(group)}
        | {"value": word_error_rate([i.prompt for i in group], [getattr(i, field) for i in group])}
        for (suite, condition), group in groups.items()
        for ears, field in (("Whisper", "heard"), ("student", "student_heard"))
        if getattr(group[0], field) is not None
    ]


if __name__ == "__main__":
    main(run)
