"""Compares every method on the same clips, at equal minutes and seeds: `make compare`.

The first steps of each method give its pace, and so the number of steps that fill its minutes here. Each seed
trains in work/methods/MINUTES/SEED from the artifacts of the current folder. What exists is kept, so a run
that was stopped resumes. The result goes to results/ and, as tables, to the screen. `--help` lists the
options: fewer methods, more minutes, other suites.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import tables
from speech_rba.config import Params, change_params, load_params, read_yaml
from speech_rba.evaluation.statistics import paired_bootstrap, recovery
from speech_rba.records import ALIGNMENT, Answer, read_jsonl

METHODS = ["sft", "kd", "opd", "dpo", "rba"]
REFERENCES = ["cascade", "base"]
WARM_START_MINUTES = 1.0  # of the minutes of `rba`
PACE_STEPS = 5  # the first is not counted
ALIGNMENT_METRICS = ["prompt_retrieval_mrr", "teacher_similarity", "teacher_logp", "teacher_pmi"]
DIGITS = 3  # of what is written to results/
ARTIFACTS = Path("artifacts").resolve()
INPUTS = {"rows": "synthesize", "features": "features", "validation": "validate", "base": "base"}
SUITE_INPUTS = {"suites": "suites", "suite_features": "suite_features"}
SHARED = ["synthesize", "voice", "features", "validate", "gate", "base"]

Budget = dict[str, dict[str, int]]  # by method, the keys of align.METHOD in params.yaml that set its steps


@dataclass(frozen=True)
class Scores:
    """One metric of one suite, on clean or on degraded clips, by system and seed."""

    suite: str
    condition: str
    metric: str
    row_ids: list[str]  # of each clip
    ceiling: list[float]  # what `text` scores on each clip's row
    by_system: dict[str, np.ndarray]  # (seeds, clips)

    def mean(self, system: str) -> np.ndarray:
        """(clips,), over seeds."""
        return self.by_system[system].mean(0)

    def row(self, table: str, system: str, value: float, **more) -> tables.Row:
        """A row of results/; `more` has `versus`, `low`, `high` or another `metric`."""
        row: tables.Row = {"table": table, "system": system, "versus": None, "suite": self.suite}
        row |= {"condition": self.condition, "metric": self.metric, "value": value, "low": None, "high": None}
        row |= more | {"n": len(self.row_ids)}
        return row | {
            key: round(row[key], DIGITS) for key in ("value", "low", "high") if row[key] is not None
        }


def main() -> None:
    options = parse()
    suites = load_params().evaluate.suites | dict(suite.split("=", 1) for suite in options.suites)
    change_params(Path("params.yaml"), {"evaluate.suites": suites})
    subprocess.run(["dvc", "repro", "-q", "gate"], check=True)
    budget = steps_in(options.minutes, options.methods, Path("work/methods/pace").resolve())
    place = Path(f"work/methods/{options.minutes:g}").resolve()
    folders = {seed: place / str(seed) for seed in options.seeds}
    for seed, folder in folders.items():
        align(folder, seed, budget)
    answers = evaluated(place, folders, options.methods, list(suites))
    rows = cost(folders, options.methods)
    for scores in all_scores(answers, options.methods, options.seeds):
        rows += compared(scores, options.seeds)
    write(options, rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5, help="for each adapter")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--suites", nargs="+", default=[], metavar="NAME=FOLDER", help="suites to answer too")
    parser.add_argument("--out", type=Path, default=Path("results/methods.json"))
    options = parser.parse_args()
    if "rba" not in options.methods or options.minutes <= WARM_START_MINUTES:
        parser.error(f"every method is compared with rba, which takes more than {WARM_START_MINUTES} minutes")
    return options


def steps_in(minutes: float, methods: list[str], folder: Path) -> Budget:
    """The steps of each method that fill so many minutes, after a few steps of each in `folder`."""
    measured = {method: {"max_steps": PACE_STEPS} for method in ["sft", *methods]}
    align(folder, 0, measured | {"rba": {"warm_start_steps": 0, "max_steps": PACE_STEPS}})
    minutes_per_step = {}
    for method in measured:
        log = (folder / f"align/{method}/log.jsonl").read_text().splitlines()
        passed = [json.loads(line)["minutes"] for line in log]
        minutes_per_step[method] = (passed[-1] - passed[0]) / (len(passed) - 1)
    budget = {method: {"max_steps": round(minutes / minutes_per_step[method])} for method in methods}
    warm_start_steps = round(WARM_START_MINUTES / minutes_per_step["sft"])
    max_steps = round((minutes - WARM_START_MINUTES) / minutes_per_step["rba"])
    return budget | {"rba": {"warm_start_steps": warm_start_steps, "max_steps": max_steps}}


def align(folder: Path, seed: int, budget: Budget) -> None:
    """Trains every method of `budget` with this seed in `folder`, on the artifacts of the current folder."""
    folder.mkdir(parents=True, exist_ok=True)
    values = read_yaml(Path("params.yaml"))
    values["align"] |= {"methods": list(budget), "seed": seed, "start_from": None}
    for method, steps in budget.items():
        values["align"][method] |= steps
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for shared in [Path("data").resolve(), *(ARTIFACTS / name for name in SHARED)]:
        if not (folder / shared.name).exists():
            os.symlink(shared, folder / shared.name)
    for method in budget:
        run_stage(folder, "align", INPUTS | {"gate": "gate", "method": method, "out": f"align/{method}"})


def run_stage(folder: Path, name: str, arguments: dict[str, str]) -> None:
    if not (folder / arguments["out"]).exists():
        words = [word for flag, value in arguments.items() for word in (f"--{flag}", value)]
        subprocess.run([sys.executable, "-m", f"speech_rba.stages.{name}", *words], cwd=folder, check=True)


def evaluated(place: Path, folders: dict[int, Path], methods: list[str], suites: list[str]) -> list[Answer]:
    """The test answers of every adapter, as system METHOD-SEED, and of the systems without adapter."""
    from speech_rba.stages import evaluate  # imports torch, which takes seconds

    place = place / "-".join([*methods, *map(str, folders), *suites])
    place.mkdir(exist_ok=True)
    adapters = {f"{m}-{seed}": folder / "align" / m for seed, folder in folders.items() for m in methods}
    for name, adapter in adapters.items():
        if not (place / name).exists():
            os.symlink(adapter, place / name)
    if not (place / "evaluate").exists():
        paths = {argument: ARTIFACTS / name for argument, name in (INPUTS | SUITE_INPUTS).items()}
        evaluate.run(
            evaluation_params(list(adapters)),
            methods=place,
            out=place / "evaluate",
            metrics=place / "metrics",
            **paths,
        )
    return [a for a in read_jsonl(place / "evaluate/answers.jsonl", Answer) if a.split == "test"]


def evaluation_params(systems: list[str]) -> Params:
    """params.yaml with these systems as methods, and one bootstrap sample: all pairs would take long."""
    params = load_params()
    methods = params.align.model_copy(update={"methods": systems})
    return params.model_copy(
        update={"align": methods, "evaluate": params.evaluate.model_copy(update={"num_bootstrap": 1})}
    )


def cost(folders: dict[int, Path], methods: list[str]) -> list[tables.Row]:
    """Minutes of each seed, and steps and samples, which are the same for each."""
    rows = []
    for method in methods:
        summaries = {
            seed: json.loads((folder / f"align/{method}/training.json").read_text())
            for seed, folder in folders.items()
        }
        values = {
            f"minutes, seed {seed}": round(summary["minutes"], 1) for seed, summary in summaries.items()
        }
        first = next(iter(summaries.values()))
        for metric, value in {**values, **{key: first[key] for key in ("num_steps", "num_samples")}}.items():
            row = {"table": "cost", "system": method, "versus": None, "suite": None, "condition": None}
            rows.append(row | {"metric": metric, "value": value, "low": None, "high": None, "n": None})
    return rows


def all_scores(answers: list[Answer], methods: list[str], seeds: list[int]) -> Iterable[Scores]:
    """Every metric that is compared, on degraded and then on clean clips."""
    suites = dict.fromkeys(answer.suite for answer in answers if "accuracy" in answer.metrics)
    compared_metrics = [(ALIGNMENT, metric) for metric in ALIGNMENT_METRICS]
    compared_metrics += [(suite, "accuracy") for suite in suites]
    for condition in ("degraded", "clean"):
        for suite, metric in compared_metrics:
            scored = [a for a in answers if a.suite == suite and metric in a.metrics]
            text = {a.row_id: a.metrics[metric] for a in scored if a.system == "text"}
            spoken = [a for a in scored if a.clip_id and (a.condition == "clean") == (condition == "clean")]
            if spoken:
                rows = {a.clip_id: a.row_id for a in spoken}
                row_ids = [rows[clip] for clip in sorted(rows)]
                systems = by_system(spoken, metric, methods, seeds)
                yield Scores(suite, condition, metric, row_ids, [text[row] for row in row_ids], systems)


def by_system(
    answers: list[Answer], metric: str, methods: list[str], seeds: list[int]
) -> dict[str, np.ndarray]:
    """(seeds, clips) of each system, clips ordered by id; references are the same for every seed."""
    clips = sorted({a.clip_id for a in answers})
    values = {(a.system, a.clip_id): a.metrics[metric] for a in answers}
    systems = {name: np.array([[values[name, clip] for clip in clips]] * len(seeds)) for name in REFERENCES}
    for method in methods:
        systems[method] = np.array([[values[f"{method}-{seed}", clip] for clip in clips] for seed in seeds])
    return systems


def compared(scores: Scores, seeds: list[int]) -> list[tables.Row]:
    """Means over seeds, recovery, and `rba` minus every other system with its interval and by seed."""
    prefix = "clean_" if scores.condition == "clean" else ""
    rows = [scores.row(f"{prefix}systems", "text", float(np.mean(scores.ceiling)))]
    for system, values in scores.by_system.items():
        rows.append(scores.row(f"{prefix}systems", system, float(values.mean())))
        if system != "cascade":
            rows += recovered(scores, f"{prefix}recovery", system)
        if system != "rba":
            gain, low, high, *_ = paired_bootstrap(scores.mean("rba"), scores.mean(system), **draws(scores))
            rows.append(scores.row(f"{prefix}differences", "rba", gain, versus=system, low=low, high=high))
            by_seed = (scores.by_system["rba"] - values).mean(1)
            for seed, value in zip(seeds, by_seed, strict=True):
                row = scores.row(f"{prefix}by_seed", f"rba, seed {seed}", float(value), versus=system)
                rows.append(row)
    return rows


def recovered(scores: Scores, table: str, system: str) -> list[tables.Row]:
    """The share of the gap between cascade and text that a system closes; no row where there is no gap."""
    closed = recovery(scores.mean(system), scores.mean("cascade"), scores.ceiling, **draws(scores))
    if closed is None:
        return []
    share, low, high = closed
    return [scores.row(table, system, share, low=low, high=high, metric=f"recovery of {scores.metric}")]


def draws(scores: Scores) -> dict[str, Any]:
    """The arguments of a bootstrap over texts."""
    return {"num_samples": load_params().evaluate.num_bootstrap, "seed": 0, "clusters": scores.row_ids}


def write(options: argparse.Namespace, rows: list[tables.Row]) -> None:
    """The result file, and its tables on the screen."""
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True)
    arguments = " ".join(sys.argv[1:])
    header = {
        "command": f'make compare ARGS="{arguments}"' if arguments else "make compare",
        "commit": commit.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "minutes": options.minutes,
        "seeds": options.seeds,
    }
    options.out.parent.mkdir(exist_ok=True)
    tables.write_result(options.out, header, rows)
    written = tables.read_result(options.out)["rows"]
    for table in dict.fromkeys(row["table"] for row in written):
        print(f"\n{table}\n{tables.render([row for row in written if row['table'] == table], 'system')}")


if __name__ == "__main__":
    main()
