"""Checks whether a reward rose without better answers, by the training log and by a held-out measure.

A check that fails keeps a version from promotion. Drift compares the first and the last third of the steps.
"""

import json
from pathlib import Path
from statistics import fmean

from speech_rba.config import RewardHacking
from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT

HELD_OUT = "teacher_logp"  # the likelihood of the teacher's answer, which no reward holds
MIN_STEPS = 6  # a third of fewer steps is too noisy


def reward_hacking(folder: Path, method: str, paired: list[dict], limits: RewardHacking) -> list[dict]:
    """{name, critical, passed, observed, expected} of each check of a method; none without reinforcement.

    `folder` holds its log.jsonl; `paired` are paired tests on the validation split.
    """
    steps = [row for row in read_log(folder) if "reward" in row]
    if len(steps) < MIN_STEPS:
        return []
    return [*training_checks(steps, limits), held_out_check(steps, method, paired)]


def read_log(folder: Path) -> list[dict]:
    """The rows of a method's training log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def training_checks(steps: list[dict], limits: RewardHacking) -> list[dict]:
    """The checks of the training log; `steps` holds a row for each step of reinforcement."""
    first, last = thirds(steps, "completions/mean_length")
    drift = max(last, first) / min(last, first)
    repetition = thirds(steps, "completions/repetition")[1]
    first, last = thirds(steps, "completions/clipped_ratio")
    constant = fmean(step["frac_reward_zero_std"] for step in steps)
    checks = [
        check("length_drift", drift, limits.max_length_drift, "ratio of answer lengths, late to early"),
        check("repetition", repetition, limits.max_repetition, "share of repeated 3-grams"),
        check("cut_off", last - first, limits.max_cut_off_rise, "rise in the share of answers cut off"),
        check("no_spread", constant, limits.max_no_spread, "share of groups with equal rewards"),
    ]
    if "kl" in steps[0]:  # with align.rba.beta above 0
        kl = thirds(steps, "kl")[1]
        checks.append(check("divergence", kl, limits.max_kl, "KL from the reference model, nats"))
    return checks


def held_out_check(steps: list[dict], method: str, paired: list[dict]) -> dict:
    """Whether the held-out measure of the method is significantly above that of base, if its reward rose.

    Raises:
        UserError: the method was not compared with base.
    """
    first, last = thirds(steps, "reward")
    labels = {"suite": ALIGNMENT, "condition": "all", "metric": HELD_OUT, "a": method, "b": "base"}
    test = next((row for row in paired if labels.items() <= row.items()), None)
    if test is None:
        raise UserError(f"scores.json does not compare {method} with base by {HELD_OUT}: evaluate again")
    rise, difference, low = last - first, test["difference"], test["low"]
    return {
        "name": "reward_alone",
        "critical": True,
        "passed": rise <= 0 or low > 0,
        "observed": f"reward {rise:+.3f}, {HELD_OUT} {difference:+.3f} (interval from {low:+.3f})",
        "expected": f"{HELD_OUT} on held-out speech above that of base where the reward rose",
    }


def check(name: str, observed: float, limit: float, meaning: str) -> dict:
    return {
        "name": name,
        "critical": True,
        "passed": observed <= limit,
        "observed": observed,
        "expected": f"{meaning}: at most {limit}",
    }


def thirds(steps: list[dict], name: str) -> tuple[float, float]:
    """The mean of `name` over the first and over the last third of the steps."""
    third = -(-len(steps) // 3)
    return fmean(step[name] for step in steps[:third]), fmean(step[name] for step in steps[-third:])
