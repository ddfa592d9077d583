"""Held-out clips and all systems -> artifacts/evaluate: answers and scores; metrics/evaluate for DVC."""

import json
import time
from pathlib import Path

import torch

from speech_rba.alignment.reward_hacking import read_log, reward_hacking
from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.evaluation.comparisons import comparisons, described_metrics
from speech_rba.evaluation.items import Inputs, Item, load_items, questions_by_row
from speech_rba.evaluation.people import people_table
from speech_rba.evaluation.score_table import score_table, wer_table
from speech_rba.evaluation.scorers import corpus_tables
from speech_rba.evaluation.summary import write_summary
from speech_rba.evaluation.systems import answer_all
from speech_rba.evaluation.text_measures import add_text_measures, embed_once
from speech_rba.model.answering import AlignedStudent
from speech_rba.model.embedder import load_embedder
from speech_rba.records import ALIGNMENT, Answer, write_jsonl
from speech_rba.stages import main, publish

HELD_OUT = ("validation", "test")


def run(
    params: Params,
    rows: Path,
    features: Path,
    suites: Path,
    suite_features: Path,
    validation: Path,
    base: Path,
    methods: Path,
    out: Path,
    metrics: Path,
) -> None:
    """Scores every system's answer to every held-out clip, and to every prompt as text.

    The validation split decides which method is best, the test split is reported. All systems answer in
    float32: in bfloat16 a greedy answer depends on the other prompts of its batch.
    """
    started = time.perf_counter()
    answering = AlignedStudent(base, None, torch.float32)
    embed = embed_once(load_embedder(params.assets.embedder))
    inputs = Inputs(rows, features, suites, suite_features, validation)
    items = load_items(answering.student, inputs, params.evaluate.suites)
    check_splits(items)
    answers, costs = answer_all(answering, embed, items, {m: methods / m for m in params.align.methods})
    for split in HELD_OUT:
        of_items = [item for item in items if item.split == split]
        add_text_measures(answering.student, embed, of_items, of_split(answers, split))
    scores = all_scores(params, items, answers, methods)
    scores |= {"cost": costs, "minutes": (time.perf_counter() - started) / 60}
    with publish(out) as folder:
        write_jsonl(folder / "answers.jsonl", answers)
        (folder / "scores.json").write_text(json.dumps(scores, indent=2))
    with publish(metrics) as folder:
        write_summary(folder, scores, {m: read_log(methods / m) for m in params.align.methods})
    print(f"{len(answers)} answers of {len(scores['systems'])} systems in {scores['minutes']:.1f} minutes")


def check_splits(items: list[Item]) -> None:
    """Raises UserError where a held-out split has no clip of a synthesized row."""
    for split in HELD_OUT:
        if not any(item.suite == ALIGNMENT and item.split == split for item in items):
            raise UserError(f"no clip of a {split} row is left: raise synthesize.{split}_share")


def of_split(answers: list[Answer], split: str) -> list[Answer]:
    return [answer for answer in answers if answer.split == split]


def all_scores(params: Params, items: list[Item], answers: list[Answer], methods: Path) -> dict:
    """scores.json without costs: tables of the test split, and validation scores that choose a method."""
    systems = list(dict.fromkeys(answer.system for answer in answers))
    test, settings = of_split(answers, "test"), params.evaluate
    test_items = [item for item in items if item.split == "test"]
    table = score_table(test, systems, settings)
    validation = score_table(of_split(answers, "validation"), systems, settings)
    checks = {
        method: reward_hacking(methods / method, method, validation.paired, settings.reward_hacking)
        for method in params.align.methods
    }
    corpora = corpus_tables(test, questions_by_row(items))
    return {
        "systems": systems,
        "scores": table.scores,
        "paired": table.paired,
        "recovery": table.recovery,
        "validation": validation.scores,
        "reward_hacking": checks,
        "corpora": corpora,
        "comparisons": comparisons(test, table.scores, validation.scores, systems, settings),
        "metrics": described_metrics(table.scores, corpora),
        "wer": wer_table(test_items),
        "people": people_table(test_items, settings),
    }


if __name__ == "__main__":
    main(run)
