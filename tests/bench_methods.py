"""Every method on the same clips, budget and seeds: `make compare`, after `make run`, prints Markdown tables.

Each seed trains and answers in work/compare/SEED, from the artifacts of the last run; what is there already is kept, so
a run that was stopped goes on. Every method gets MINUTES of wall-clock: a few steps of each tell how many that is here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from speech_rba.evaluation.metrics import paired_bootstrap
from speech_rba.params import load_params
from speech_rba.records import ALIGNMENT, Answer, read_jsonl
from speech_rba.stages import evaluate

METHODS = ["sft", "kd", "opd", "dpo", "rba"]
RIVALS = ["cascade", "base"]
MINUTES, WARM_START = 2.5, 0.4  # for each adapter, and what share of it `rba` spends on its warm start
PACE = 5  # steps, of which the first is not counted
JUDGED = [  # suite, metric, decimals, scale
    (ALIGNMENT, "relevance", 3, 1),  # the three that are in no reward first
    (ALIGNMENT, "agreement", 3, 1),
    (ALIGNMENT, "reference_logp", 3, 1),
    (ALIGNMENT, "teacher_pmi", 3, 1),
    ("spoken_qa", "accuracy", 1, 100),
]
ARTIFACTS = Path("artifacts").resolve()
INPUTS = {"rows": "synthesize", "features": "features", "validation": "validate", "base": "base"}
SHARED = ["synthesize", "voice", "features", "validate", "gate", "base"]


def main() -> None:
    seeds = [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]
    if not (ARTIFACTS / "gate/gate.json").exists():
        sys.exit("error: artifacts/ is empty: run `make run` first")
    budget = steps(Path("work/compare/pace").resolve())
    folders = {seed: Path(f"work/compare/{seed}").resolve() for seed in seeds}
    for seed, folder in folders.items():
        align(folder, seed, budget)
    answers = evaluated(folders)
    cost(list(folders.values()))
    for suite, metric, decimals, scale in JUDGED:
        show(answers, seeds, suite, metric, decimals, scale)


def steps(folder: Path) -> dict[str, dict[str, int]]:
    """What of align.METHOD in params.yaml fills MINUTES, by method."""
    few = {method: {"max_steps": PACE} for method in METHODS} | {"rba": {"warm_start_steps": 0, "max_steps": PACE}}
    align(folder, 0, few)
    pace = {}
    for method in METHODS:
        minutes = [json.loads(line)["minutes"] for line in (folder / f"align/{method}/log.jsonl").open()]
        pace[method] = (minutes[-1] - minutes[0]) / (len(minutes) - 1)
    found = {method: {"max_steps": round(MINUTES / pace[method])} for method in METHODS}
    warm = {"warm_start_steps": round(WARM_START * MINUTES / pace["sft"])}
    return found | {"rba": warm | {"max_steps": round((1 - WARM_START) * MINUTES / pace["rba"])}}


def evaluated(folders: dict[int, Path]) -> list[Answer]:
    """The answers of all adapters, each a system METHOD-SEED, and of what they are compared with."""
    place = Path(f"work/compare/all-{'-'.join(map(str, folders))}")
    place.mkdir(exist_ok=True)
    adapters = {f"{m}-{seed}": folder / "align" / m for seed, folder in folders.items() for m in METHODS}
    for name, adapter in adapters.items():
        if not (place / name).exists():
            os.symlink(adapter, place / name)
    if not (place / "evaluate").exists():
        params = load_params()
        once = {"num_bootstrap": 1}  # every pair of so many systems would take longer than their answers
        params = params.model_copy(
            update={
                "align": params.align.model_copy(update={"methods": list(adapters)}),
                "evaluate": params.evaluate.model_copy(update=once),
            }
        )
        paths = {argument: ARTIFACTS / name for argument, name in (INPUTS | {"voice": "voice"}).items()}
        evaluate.run(params, data=Path("data"), methods=place, out=place / "evaluate", **paths)
    return read_jsonl(place / "evaluate/answers.jsonl", Answer)


def align(folder: Path, seed: int, budget: dict[str, dict[str, int]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["align"] |= {"methods": METHODS, "seed": seed, "start_from": None}
    for method, given in budget.items():
        values["align"][method] |= given
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for place in [Path("data").resolve(), *(ARTIFACTS / name for name in SHARED)]:
        if not (folder / place.name).exists():
            os.symlink(place, folder / place.name)
    for method in METHODS:
        stage(folder, "align", INPUTS | {"gate": "gate", "method": method, "out": f"align/{method}"})


def stage(folder: Path, name: str, arguments: dict[str, str]) -> None:
    if not (folder / arguments["out"]).exists():
        words = [word for flag, value in arguments.items() for word in (f"--{flag}", value)]
        subprocess.run([sys.executable, "-m", f"speech_rba.stages.{name}", *words], cwd=folder, check=True)


def cost(folders: list[Path]) -> None:
    print("\n| method | minutes by seed | steps | answers of the teacher or samples |\n|---|---|---|---|")
    for method in METHODS:
        found = [json.loads((folder / f"align/{method}/training.json").read_text()) for folder in folders]
        minutes = ", ".join(f"{f['minutes']:.1f}" for f in found)
        print(f"| {method} | {minutes} | {found[0]['num_steps']} | {found[0]['num_samples']} |")


def show(answers: list[Answer], seeds: list[int], suite: str, metric: str, decimals: int, scale: float) -> None:
    """Means over seeds in hard conditions, and `rba` against every other with intervals over texts, and each seed."""
    hard = [a for a in answers if a.suite == suite and a.condition not in ("clean", "text")]
    rows = {a.clip_id: a.row_id for a in hard}
    clips = sorted(rows)
    found = {(a.system, a.clip_id): a.metrics[metric] for a in hard}
    values = {rival: np.array([[found[rival, clip] for clip in clips]] * len(seeds)) for rival in RIVALS}
    values |= {m: np.array([[found[f"{m}-{seed}", clip] for clip in clips] for seed in seeds]) for m in METHODS}
    print(
        f"\n{suite}, {metric}, hard conditions, n {len(clips)} of {len(set(rows.values()))} texts, {len(seeds)} seeds"
    )
    print("\n| system | mean | rba minus it (95 % interval over texts) | by seed |\n|---|---|---|---|")
    mean = {system: scores.mean(0) for system, scores in values.items()}
    number = load_params().evaluate.num_bootstrap
    for system, scores in values.items():
        cells = [system, f"{scale * scores.mean():.{decimals}f}"]
        if system != "rba":
            paired = paired_bootstrap(mean["rba"], mean[system], number, 0, [rows[c] for c in clips])
            gain, low, high = (f"{scale * x:+.{decimals}f}" for x in paired[:3])
            by_seed = (values["rba"] - scores).mean(1)
            cells += [f"{gain} ({low} to {high})", ", ".join(f"{scale * x:+.{decimals}f}" for x in by_seed)]
        print(f"| {' | '.join([*cells, '', ''][:4])} |")


if __name__ == "__main__":
    main()
