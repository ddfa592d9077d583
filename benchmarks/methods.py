"""Every method on the same clips, budget and seeds: `make compare` prints Markdown tables.

Every method gets the same minutes of wall-clock: a few steps of each tell how many steps that is here. Each seed trains
in work/methods/MINUTES/SEED, from the artifacts that are there; what is there already is kept, so a run that was
stopped goes on. `make compare ARGS=--help` tells how to compare a few of them, or for longer, or on other recordings.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from speech_rba.config import change_params, load_params, read_yaml
from speech_rba.evaluation.statistics import paired_bootstrap, recovery
from speech_rba.records import ALIGNMENT, Answer, read_jsonl
from speech_rba.stages import evaluate

METHODS = ["sft", "kd", "opd", "dpo", "rba"]
RIVALS = ["cascade", "base"]
WARM_START = 1.0  # of its minutes, what `rba` spends on its warm start
PACE = 5  # steps, of which the first is not counted
JUDGED = [  # suite, metric, decimals, scale
    (ALIGNMENT, "prompt_retrieval_mrr", 3, 1),  # the three that are in no reward first
    (ALIGNMENT, "teacher_similarity", 3, 1),
    (ALIGNMENT, "teacher_logp", 3, 1),
    (ALIGNMENT, "teacher_pmi", 3, 1),
]
ANSWERED = ("accuracy", 1, 100)  # of every other suite
ARTIFACTS = Path("artifacts").resolve()
INPUTS = {"rows": "synthesize", "features": "features", "validation": "validate", "base": "base"}
OF_SUITES = {"suites": "suites", "suite_features": "suite_features"}
SHARED = ["synthesize", "voice", "features", "validate", "gate", "base"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5, help="for each adapter")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--suites", nargs="+", default=[], metavar="NAME=FOLDER", help="benchmarks to answer too"
    )
    given = parser.parse_args()
    if "rba" not in given.methods or given.minutes <= WARM_START:
        parser.error(f"every method is compared with rba, which takes more than {WARM_START} minutes")
    suites = load_params().evaluate.suites | dict(suite.split("=", 1) for suite in given.suites)
    change_params(Path("params.yaml"), {"evaluate.suites": suites})
    subprocess.run(["dvc", "repro", "-q", "gate"], check=True)
    budget = steps(Path("work/methods/pace").resolve(), given.methods, given.minutes)
    place = Path(f"work/methods/{given.minutes:g}").resolve()
    folders = {seed: place / str(seed) for seed in given.seeds}
    for seed, folder in folders.items():
        align(folder, seed, budget)
    answers = evaluated(place, folders, given.methods, list(suites))
    cost(list(folders.values()), given.methods)
    others = [
        (suite, *ANSWERED) for suite in dict.fromkeys(a.suite for a in answers if "accuracy" in a.metrics)
    ]
    for clean in (False, True):
        for suite, metric, decimals, scale in [*JUDGED, *others]:
            mine = [a for a in answers if a.suite == suite and metric in a.metrics]
            text = {a.row_id: a.metrics[metric] for a in mine if a.system == "text"}
            mine = [a for a in mine if a.clip_id and (a.condition == "clean") == clean]
            if mine:
                print(f"\n{suite}, {metric}, {'clean speech' if clean else 'hard conditions'}")
                show(mine, text, given.methods, given.seeds, metric, decimals, scale)


def steps(folder: Path, methods: list[str], minutes: float) -> dict[str, dict[str, int]]:
    """What of align.METHOD in params.yaml fills so many minutes, by method."""
    few = {method: {"max_steps": PACE} for method in ["sft", *methods]}
    align(folder, 0, few | {"rba": {"warm_start_steps": 0, "max_steps": PACE}})
    pace = {}
    for method in few:
        passed = [json.loads(line)["minutes"] for line in (folder / f"align/{method}/log.jsonl").open()]
        pace[method] = (passed[-1] - passed[0]) / (len(passed) - 1)
    found = {method: {"max_steps": round(minutes / pace[method])} for method in methods}
    warm = {"warm_start_steps": round(WARM_START / pace["sft"])}
    return found | {"rba": warm | {"max_steps": round((minutes - WARM_START) / pace["rba"])}}


def evaluated(place: Path, folders: dict[int, Path], methods: list[str], suites: list[str]) -> list[Answer]:
    """The answers of all adapters, each a system METHOD-SEED, and of what they are compared with."""
    place = place / "-".join([*methods, *map(str, folders), *suites])
    place.mkdir(exist_ok=True)
    adapters = {f"{m}-{seed}": folder / "align" / m for seed, folder in folders.items() for m in methods}
    for name, adapter in adapters.items():
        if not (place / name).exists():
            os.symlink(adapter, place / name)
    if not (place / "evaluate").exists():
        params = load_params()
        # Every pair of so many systems would take longer than their answers.
        once = {"num_bootstrap": 1}
        params = params.model_copy(
            update={
                "align": params.align.model_copy(update={"methods": list(adapters)}),
                "evaluate": params.evaluate.model_copy(update=once),
            }
        )
        paths = {argument: ARTIFACTS / name for argument, name in (INPUTS | OF_SUITES).items()}
        evaluate.run(params, methods=place, out=place / "evaluate", **paths)
    return [a for a in read_jsonl(place / "evaluate/answers.jsonl", Answer) if a.split == "test"]


def align(folder: Path, seed: int, budget: dict[str, dict[str, int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = read_yaml(Path("params.yaml"))
    values["align"] |= {"methods": list(budget), "seed": seed, "start_from": None}
    for method, given in budget.items():
        values["align"][method] |= given
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for place in [Path("data").resolve(), *(ARTIFACTS / name for name in SHARED)]:
        if not (folder / place.name).exists():
            os.symlink(place, folder / place.name)
    for method in budget:
        stage(folder, "align", INPUTS | {"gate": "gate", "method": method, "out": f"align/{method}"})


def stage(folder: Path, name: str, arguments: dict[str, str]) -> None:
    if not (folder / arguments["out"]).exists():
        words = [word for flag, value in arguments.items() for word in (f"--{flag}", value)]
        subprocess.run([sys.executable, "-m", f"speech_rba.stages.{name}", *words], cwd=folder, check=True)


def cost(folders: list[Path], methods: list[str]) -> None:
    print("\n| method | minutes by seed | steps | answers of the teacher or samples |\n|---|---|---|---|")
    for method in methods:
        found = [json.loads((folder / f"align/{method}/training.json").read_text()) for folder in folders]
        minutes = ", ".join(f"{f['minutes']:.1f}" for f in found)
        print(f"| {method} | {minutes} | {found[0]['num_steps']} | {found[0]['num_samples']} |")


def show(
    answers: list[Answer],
    text: dict[str, float],
    methods: list[str],
    seeds: list[int],
    metric: str,
    decimals: int,
    scale: float,
) -> None:
    """Means over seeds, the share that each closes of the gap between cascade and text, and `rba` against every other
    with intervals over texts, and each seed."""
    rows = {a.clip_id: a.row_id for a in answers}
    clips = sorted(rows)
    found = {(a.system, a.clip_id): a.metrics[metric] for a in answers}
    values = {rival: np.array([[found[rival, clip] for clip in clips]] * len(seeds)) for rival in RIVALS}
    values |= {
        m: np.array([[found[f"{m}-{seed}", clip] for clip in clips] for seed in seeds]) for m in methods
    }
    print(f"n {len(clips)} of {len(set(rows.values()))} texts, {len(seeds)} seeds")
    ceiling = [text[rows[clip]] for clip in clips]
    print("\n| system | mean | closes of the gap, % | rba minus it (95 % interval over texts) | by seed |")
    print(f"|---|---|---|---|---|\n| text | {scale * np.mean(ceiling):.{decimals}f} | | | |")
    mean = {system: scores.mean(0) for system, scores in values.items()}
    draw = {
        "num_samples": load_params().evaluate.num_bootstrap,
        "seed": 0,
        "clusters": [rows[clip] for clip in clips],
    }
    for system, scores in values.items():
        closed = recovery(mean[system], mean["cascade"], ceiling, **draw) if system != "cascade" else None
        share = "{:.0f} ({:.0f} to {:.0f})".format(*(100 * x for x in closed)) if closed else ""
        cells = [system, f"{scale * scores.mean():.{decimals}f}", share]
        if system != "rba":
            paired = paired_bootstrap(mean["rba"], mean[system], **draw)
            gain, low, high = (f"{scale * x:+.{decimals}f}" for x in paired[:3])
            by_seed = (values["rba"] - scores).mean(1)
            cells += [f"{gain} ({low} to {high})", ", ".join(f"{scale * x:+.{decimals}f}" for x in by_seed)]
        print(f"| {' | '.join([*cells, '', ''][:5])} |")


if __name__ == "__main__":
    main()
