"""Signs that a reward rose without a better answer: what reinforcement logged, and what was held out from it.

An alarm keeps a version from promotion (registry/promotion.py). Drift is judged between the first and the last third of the
steps, by what is logged of the answers at each, whichever rewards count.
"""

import json
from pathlib import Path
from statistics import fmean

from speech_rba.config import RewardHacking
from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT

HELD_OUT = "teacher_logp"  # the measure of teacher_similarity with the teacher that no reward holds
MIN_STEPS = 6  # with fewer, a third of the steps is chance


def reward_hacking(folder: Path, method: str, paired: list[dict], limits: RewardHacking) -> list[dict]:
    """The checks (name, critical, passed, observed, expected) of one trained method; none without reinforcement.

    `folder` holds its log.jsonl; `paired` are the paired tests of scores.json.
    """
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "reward" in row]
    if len(steps) < MIN_STEPS:
        return []
    return [*training_checks(steps, limits), reward_alone(steps, method, paired)]


def training_checks(steps: list[dict], limits: RewardHacking) -> list[dict]:
    """The checks of what was logged, one dict a step of reinforcement."""
    before, after = thirds(steps, "completions/mean_length")
    drift = max(after, before) / min(after, before)
    checks = [
        check(
            "length_drift", drift, limits.max_length_drift, "answers longer or shorter than at first, times"
        )
    ]
    repeated = thirds(steps, "completions/repetition")[1]
    checks.append(check("repetition", repeated, limits.max_repetition, "share of repeated 3-grams"))
    before, after = thirds(steps, "completions/clipped_ratio")
    checks.append(
        check("cut_off", after - before, limits.max_cut_off_rise, "rise in the share of answers cut off")
    )
    flat = fmean(step["frac_reward_zero_std"] for step in steps)
    checks.append(check("no_spread", flat, limits.max_no_spread, "share of groups whose answers earn alike"))
    if "kl" in steps[0]:  # with align.rba.beta above 0
        checks.append(check("divergence", thirds(steps, "kl")[1], limits.max_kl, "KL from the start, nats"))
    return checks


def reward_alone(steps: list[dict], method: str, paired: list[dict]) -> dict:
    """The check that the method agrees better with the teacher on held-out speech than base does, if its reward rose.

    Raises:
        UserError: it was not compared with base.
    """
    before, after = thirds(steps, "reward")
    where = {"suite": ALIGNMENT, "condition": "all", "metric": HELD_OUT, "a": method, "b": "base"}
    found = next((row for row in paired if where.items() <= row.items()), None)
    if found is None:
        raise UserError(f"scores.json does not compare {method} with base by {HELD_OUT}: evaluate again")
    observed = (
        f"reward {after - before:+.3f}, held out {found['difference']:+.3f} ({found['low']:+.3f} at least)"
    )
    passed = after <= before or found["low"] > 0
    expected = "held-out teacher_similarity above base where the reward rose"
    return {
        "name": "reward_alone",
        "critical": True,
        "passed": passed,
        "observed": observed,
        "expected": expected,
    }


def check(name: str, observed: float, limit: float, meaning: str) -> dict:
    expected = f"{meaning}: at most {limit}"
    return {
        "name": name,
        "critical": True,
        "passed": observed <= limit,
        "observed": observed,
        "expected": expected,
    }


def thirds(steps: list[dict], name: str) -> tuple[float, float]:
    """The mean of `name` over the first and over the last third of the steps."""
    third = -(-len(steps) // 3)
    return fmean(step[name] for step in steps[:third]), fmean(step[name] for step in steps[-third:])
