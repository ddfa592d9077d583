"""Every method on the same clips, budget and seeds: `make compare`, after `make run`, prints Markdown tables.

Each seed trains and answers in work/compare/SEED, from the artifacts of the last run; what is there already is kept, so
a run that was stopped goes on. The budget is wall-clock, set by `max_steps` in params.yaml; minutes are printed.
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

METHODS = ["sft", "kd", "opd", "dpo", "rba"]
RIVALS = ["cascade", "base"]
JUDGED = [  # suite, metric, decimals, scale
    (ALIGNMENT, "reference_logp", 3, 1),
    (ALIGNMENT, "teacher_pmi", 3, 1),
    ("spoken_qa", "accuracy", 1, 100),
]
ARTIFACTS = Path("artifacts").resolve()
SHARED = ["synthesize", "voice", "features", "validate", "gate", "base"]


def main() -> None:
    seeds = [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]
    if not (ARTIFACTS / "gate/gate.json").exists():
        sys.exit("error: artifacts/ is empty: run `make run` first")
    folders = [train(Path(f"work/compare/{seed}").resolve(), seed) for seed in seeds]
    cost(folders)
    answers = [read_jsonl(folder / "evaluate/answers.jsonl", Answer) for folder in folders]
    for suite, metric, decimals, scale in JUDGED:
        show(answers, suite, metric, decimals, scale)


def train(folder: Path, seed: int) -> Path:
    """The adapters and answers of one seed."""
    folder.mkdir(parents=True, exist_ok=True)
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["align"] |= {"methods": METHODS, "seed": seed, "start_from": None}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for name, place in {"data": Path("data").resolve()} | {name: ARTIFACTS / name for name in SHARED}.items():
        if not (folder / name).exists():
            os.symlink(place, folder / name)
    inputs = {"rows": "synthesize", "features": "features", "validation": "validate", "base": "base"}
    for method in METHODS:
        stage(folder, "align", inputs | {"gate": "gate", "method": method, "out": f"align/{method}"})
    stage(folder, "evaluate", inputs | {"data": "data", "voice": "voice", "methods": "align", "out": "evaluate"})
    return folder


def stage(folder: Path, name: str, arguments: dict[str, str]) -> None:
    if not (folder / arguments["out"]).exists():
        words = [word for flag, value in arguments.items() for word in (f"--{flag}", value)]
        subprocess.run([sys.executable, "-m", f"speech_rba.stages.{name}", *words], cwd=folder, check=True)


def cost(folders: list[Path]) -> None:
    print("\n| method | minutes a seed | steps | answers of the teacher or samples |\n|---|---|---|---|")
    for method in METHODS:
        found = [json.loads((folder / f"align/{method}/training.json").read_text()) for folder in folders]
        minutes = ", ".join(f"{f['minutes']:.1f}" for f in found)
        print(f"| {method} | {minutes} | {found[0]['num_steps']} | {found[0]['num_samples']} |")


def show(answers: list[list[Answer]], suite: str, metric: str, decimals: int, scale: float) -> None:
    """Means over seeds in hard conditions, and `rba` against every other with intervals over texts, and each seed."""
    hard = [[a for a in found if a.suite == suite and a.condition not in ("clean", "text")] for found in answers]
    clips = sorted({a.clip_id for a in hard[0]})
    rows = {a.clip_id: a.row_id for a in hard[0]}
    values = {
        system: np.array(
            [[{a.clip_id: a.metrics[metric] for a in found if a.system == system}[c] for c in clips] for found in hard]
        )
        for system in [*RIVALS, *METHODS]
    }
    print(f"\n{suite}, {metric}, hard conditions, n {len(clips)}, {len(answers)} seeds")
    print("\n| system | mean | rba minus it (95 % interval over texts) | by seed |\n|---|---|---|---|")
    mean = {system: found.mean(0) for system, found in values.items()}
    number = load_params().evaluate.num_bootstrap
    for system, found in values.items():
        cells = [system, f"{scale * found.mean():.{decimals}f}"]
        if system != "rba":
            paired = paired_bootstrap(mean["rba"], mean[system], number, 0, [rows[c] for c in clips])
            gain, low, high = (f"{scale * x:+.{decimals}f}" for x in paired[:3])
            by_seed = (values["rba"] - found).mean(1)
            cells += [f"{gain} ({low} to {high})", ", ".join(f"{scale * x:+.{decimals}f}" for x in by_seed)]
        print(f"| {' | '.join([*cells, '', ''][:4])} |")


if __name__ == "__main__":
    main()
