"""The report page: what the numbers say, as tables, plots and recordings to encode_audio to, in one HTML file.

The template beside this file is read from the source tree, where the package is installed editable.
"""

import base64
import difflib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from speech_rba.errors import UserError
from speech_rba.evaluation.metrics import bootstrap, paired_bootstrap
from speech_rba.records import ALIGNMENT, Answer, Clip, Condition, Feature, Row
from speech_rba.report import plots

REFERENCES = ("text", "cascade", "base")  # what every method is compared with
MIN_ROWS = 20  # a bootstrap over fewer texts gives intervals that are far too narrow
CONDITIONS = get_args(Condition)
NUM_SNR_BINS = 4
TRAINING_CURVES = (  # phase (None: any), name in the log, title, unit
    ("sft", "loss", "Loss on the teacher's answers", "cross-entropy (nats)"),
    ("rba", "loss", "Policy loss", "loss"),
    (None, "reward", "Reward", "weighted sum"),
    (None, "rewards/teacher_pmi/mean", "Reward: the teacher's likelihood", "mutual information (nats)"),
    (None, "rewards/teacher_similarity/mean", "Reward: teacher_similarity with the teacher", "cosine"),
    (None, "rewards/length/mean", "Reward: length", "score"),
    (None, "rewards/repetition/mean", "Reward: repetition", "score"),
    (None, "rewards/bleu/mean", "Reward: BLEU", "sentence BLEU"),
    (None, "rewards/chrf/mean", "Reward: chrF2", "sentence chrF2"),
    (None, "teacher_divergence", "Divergence from the teacher at a token", "nats"),
    (None, "kl", "Distance from the reference", "KL (nats)"),
    (None, "completions/mean_length", "Answer length", "tokens"),
    (None, "completions/clipped_ratio", "Answers cut off", "share"),
    (None, "frac_reward_zero_std", "Groups with equal rewards", "share"),
)


@dataclass(frozen=True)
class Results:
    """What the stages before left: rows, clips and features by id, and each report as it was written."""

    rows: dict[str, Row]
    clips: dict[str, Clip]
    features: dict[str, Feature]
    answers: list[Answer]
    scores: dict
    synthesis: dict
    voice: dict
    measured: dict
    suite_minutes: dict[str, float]  # to voice or read, and to transcribe each suite
    validation: dict
    gate: dict
    training: dict[str, dict]  # by method
    logs: dict[str, list[dict]]  # by method
    recordings: dict[str, Path]  # the file of each clip

    @property
    def systems(self) -> list[str]:
        return self.scores["systems"]

    @property
    def methods(self) -> list[str]:
        return [system for system in self.systems if system not in REFERENCES]

    @property
    def reward_hacking(self) -> list[tuple[str, list[dict]]]:
        """What watched the reinforcement of each method, and its checks."""
        return [
            (f"reward_hacking, {method}", checks) for method, checks in self.scores["reward_hacking"].items()
        ]

    @property
    def suites(self) -> list[str]:
        return list(dict.fromkeys(score["suite"] for score in self.scores["scores"]))


def render(results: Results, num_examples: int, num_bootstrap: int, seed: int) -> str:
    """The page as HTML; it asks for nothing from outside.

    Raises:
        UserError: systems were not scored on the same clips, or no method was scored.
    """
    if not results.methods:
        raise UserError(
            f"no aligned method among the scored systems {results.systems}: run align and evaluate first"
        )
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    verdicts = [verdict(results, suite, num_bootstrap, seed) for suite in results.suites]
    return environment.get_template("page.html.j2").render(
        results=results,
        glyphs=plots.GLYPHS,
        metric_style=plots.metric_style,
        share=plots.Metric("recovery (%)", 100, 0),
        headline=headline([found for found in verdicts if can_be_compared(results.scores, found)]),
        verdicts=verdicts,
        tables=[score_table(results, suite, metric) for suite, metric in _suite_metrics(results.scores)],
        people={suite: word_error_rates(results.scores, suite) for suite in wer_only_suites(results.scores)},
        gains=[gain_table(results, suite) for suite in results.suites],
        figures=[suite_figures(results, suite, num_bootstrap, seed) for suite in results.suites],
        curves=training_curves(results),
        counts=data_counts(results),
        examples=[example(results, clip_id) for clip_id in pick_examples(own_answers(results), num_examples)],
        minutes=minutes_by_stage(results),
    )


def primary_metric(scores: dict, suite: str) -> str:
    """By what a suite is judged: accuracy, or the likelihood of the teacher's answer (in no reward), or its first."""
    found = list(dict.fromkeys(score["metric"] for score in scores["scores"] if score["suite"] == suite))
    return next((metric for metric in ("accuracy", "teacher_logp") if metric in found), found[0])


def _suite_metrics(scores: dict) -> list[tuple[str, str]]:
    pairs = dict.fromkeys((score["suite"], score["metric"]) for score in scores["scores"])
    return sorted(
        pairs, key=lambda pair: pair[1] != primary_metric(scores, pair[0])
    )  # stable: judged by first


def _values(answers: list[Answer], metric: str) -> dict[str, dict[str, tuple[str, float]]]:
    """(row id, score) by system and clip id."""
    values: dict[str, dict[str, tuple[str, float]]] = {}
    for answer in answers:
        values.setdefault(answer.system, {})[answer.clip_id] = (answer.row_id, answer.metrics[metric])
    return values


def _spoken(results: Results, suite: str, metric: str) -> list[Answer]:
    """The answers to a suite's clips that have the metric: a suite may ask in several ways."""
    return [a for a in results.answers if a.suite == suite and a.clip_id and metric in a.metrics]


# ---- what is said first


def verdict(results: Results, suite: str, num_bootstrap: int, seed: int) -> dict:
    """The best method of a suite over its hard clips (all, where none is hard) against every other that hears speech.

    Keys: suite, metric, hard, best, num_clips, num_rows, pairs ({system, difference, low, high, p_value, sign}),
    against and over_base (the pairs with the cascade and with base). The best is chosen on validation.
    """
    metric = primary_metric(results.scores, suite)
    spoken = _spoken(results, suite, metric)
    hard = [answer for answer in spoken if answer.condition != "clean"]
    values = _values(hard or spoken, metric)
    if len({frozenset(clips) for clips in values.values()}) != 1 or set(values) != set(results.systems) - {
        "text"
    }:
        counts = {system: len(clips) for system, clips in values.items()}
        raise UserError(
            f"the systems were not scored on the same clips of {suite}: {counts}; run evaluate again"
        )
    best = chosen(results, suite, "degraded" if hard else "all")
    pairs = []
    for system in [*REFERENCES[1:], *(method for method in results.methods if method != best)]:
        ids = sorted(values[best])
        a, b = ([values[name][clip_id][1] for clip_id in ids] for name in (best, system))
        rows = [values[best][clip_id][0] for clip_id in ids]
        difference, low, high, p_value = paired_bootstrap(a, b, num_bootstrap, seed, clusters=rows)
        pair = {"system": system, "difference": difference, "low": low, "high": high, "p_value": p_value}
        pairs.append(pair | {"sign": sign(low, high) if len(set(rows)) >= MIN_ROWS else "open"})
    return {
        "suite": suite,
        "metric": metric,
        "degraded": bool(hard),
        "best": best,
        "num_clips": len(values[best]),
        "num_rows": len({row for row, _ in values[best].values()}),
        "pairs": pairs,
        "against": pairs[0],
        "over_base": pairs[1],
    }


def chosen(results: Results, suite: str, condition: str) -> str:
    """The method that validation chooses for a suite; for recordings, which have none, that of the synthesized rows."""
    for of, where in ((suite, condition), (suite, "all"), (ALIGNMENT, condition), (ALIGNMENT, "all")):
        wanted = {"suite": of, "condition": where, "metric": primary_metric(results.scores, of)}
        rows = [row for row in results.scores["validation"] if wanted.items() <= row.items()]
        found = {row["system"]: row["value"] for row in rows if row["system"] in results.methods}
        if found:
            return max(results.methods, key=lambda method: found[method])
    raise UserError(f"validation scored no method on {suite} nor on {ALIGNMENT}: run evaluate again")


def can_be_compared(scores: dict, verdict: dict) -> bool:
    """Whether there is something to lose: refusals are no news where the text system itself refuses nothing."""
    where = {"suite": verdict["suite"], "metric": "refused", "condition": "text", "system": "text"}
    ceiling = next((row["low"] for row in scores["scores"] if where.items() <= row.items()), 0)
    return verdict["metric"] != "refused" or ceiling > 0


def sign(low: float, high: float) -> str:
    """`better` or `worse` when the interval of a difference excludes 0, else `open`."""
    return "better" if low > 0 else "worse" if high < 0 else "open"


def headline(verdicts: list[dict]) -> str:
    """How the best method stands to the cascade in the hard conditions, suite by suite, and what of it is alignment."""
    told = [verdict for verdict in verdicts if verdict["degraded"]] or verdicts
    if (most := max(verdict["num_rows"] for verdict in told)) < MIN_ROWS:
        return f"Only {most} held-out texts were answered: too few to tell the systems apart."
    told = [verdict for verdict in told if verdict["num_rows"] >= MIN_ROWS]
    words = {"better": "beats", "worse": "falls behind", "open": "is not told apart from"}
    clauses: list[str] = []
    before = ""
    for item in told:
        pair, style = item["against"], plots.metric_style(item["metric"])
        says = f"{item['best']} {words[pair['sign']]} the cascade"
        unit = f"{'points ' if style.scale == 100 else ''}{style.label.split(' (')[0]}"
        gain = f"{style.text(pair['difference'], '+')} {unit}"
        aligned = f"{style.text(item['over_base']['difference'], '+')} of it by alignment"
        where = item["suite"].replace("_", " ")
        clauses.append(f"{says if says != before else ''} on {where} ({gain}, {aligned})")
        before = says
    where = "hard conditions" if told[0]["degraded"] else "clean speech"
    return f"In {where}, {' and '.join(clause.strip() for clause in clauses)}."


# ---- tables


def score_table(results: Results, suite: str, metric: str) -> dict:
    """One row a system, one column a condition: {suite, metric, primary, conditions, num, text, systems, wer}.

    `systems` holds (index, name, cells by condition); a cell is {value, low, high, n, best, unparsed}, the last the
    share of choices without a letter, for accuracy.
    """
    cells: dict[str, dict[str, dict]] = {}
    unparsed: dict[tuple[str, str], float] = {}
    for score in results.scores["scores"]:
        if (score["suite"], score["metric"]) == (suite, metric):
            cells.setdefault(score["system"], {})[score["condition"]] = score
        if (score["suite"], score["metric"], metric) == (suite, "unparsed", "accuracy"):
            unparsed[score["system"], score["condition"]] = score["value"]
    for system, by_condition in cells.items():
        for condition, cell in by_condition.items():
            cell["unparsed"] = unparsed.get((system, condition))
    spoken = {condition for system in cells for condition in cells[system] if system != "text"}
    conditions = [condition for condition in ("all", *CONDITIONS) if condition in spoken]
    for condition in conditions:
        present = [method for method in results.methods if condition in cells[method]]
        top = max(cells[method][condition]["value"] for method in present)
        for system in cells:
            if cell := cells[system].get(condition):
                cell["best"] = system in results.methods and cell["value"] == top
    return {
        "suite": suite,
        "metric": metric,
        "primary": metric == primary_metric(results.scores, suite),
        "conditions": conditions,
        "text": cells["text"]["text"],
        "num": {condition: cells["cascade"][condition]["n"] for condition in conditions},
        "systems": [(i, name, cells[name]) for i, name in enumerate(results.systems) if name != "text"],
        "wer": word_error_rates(results.scores, suite),
    }


def word_error_rates(scores: dict, suite: str) -> dict[str, dict[str, float]]:
    """The word error rate of each pair of asr_adapter by condition."""
    rates: dict[str, dict[str, float]] = {}
    for row in scores["wer"]:
        if row["suite"] == suite:
            rates.setdefault(row["asr_adapter"], {})[row["condition"]] = row["value"]
    return rates


def wer_only_suites(scores: dict) -> list[str]:
    """The suites of recordings that nobody answers right or wrong: only how well they are heard is known."""
    scored = {score["suite"] for score in scores["scores"]}
    return list(dict.fromkeys(row["suite"] for row in scores["wer"] if row["suite"] not in scored))


def gain_table(results: Results, suite: str) -> dict:
    """Recovery and paired tests of a suite's judging metric: {suite, metric, conditions, recovery, paired}.

    Each of the last two holds (label, cells by condition).
    """
    metric = primary_metric(results.scores, suite)
    recovery: dict[str, dict[str, dict]] = {}
    paired: dict[str, dict[str, dict]] = {}
    for item in results.scores["recovery"]:
        if (item["suite"], item["metric"]) == (suite, metric) and item["n"] >= MIN_ROWS:
            recovery.setdefault(item["system"], {})[item["condition"]] = item
    for item in results.scores["paired"]:
        if (item["suite"], item["metric"]) == (suite, metric):
            cell = item | {"sign": sign(item["low"], item["high"])}
            paired.setdefault(f"{item['a']} − {item['b']}", {})[item["condition"]] = cell
    seen = {condition for cells in [*recovery.values(), *paired.values()] for condition in cells}
    return {
        "suite": suite,
        "metric": metric,
        "conditions": [
            condition for condition in ("all", "degraded", *CONDITIONS, "text") if condition in seen
        ],
        "recovery": list(recovery.items()),
        "paired": list(paired.items()),
    }


# ---- plots


def suite_figures(results: Results, suite: str, num_bootstrap: int, seed: int) -> dict:
    """SVG of a suite's judging metric: {suite, condition, voice, snr}; `snr` is None where no clip has added noise."""
    metric = primary_metric(results.scores, suite)
    table = score_table(results, suite, metric)
    ceiling = _estimate(table["text"])
    by_condition = {
        index: {name.replace("_", " "): _estimate(cell) for name, cell in cells.items()}
        for index, _, cells in table["systems"]
    }
    answers = _spoken(results, suite, metric)
    voices = {answer.clip_id: answer.voice + " (held out)" * answer.heldout_voice for answer in answers}
    by_voice = _estimates(results, answers, voices, metric, num_bootstrap, seed)
    bins = _snr_bins({answer.clip_id: answer.snr_db for answer in answers if answer.snr_db is not None})
    by_snr = _estimates(results, answers, bins, metric, num_bootstrap, seed)
    conditions = [condition.replace("_", " ") for condition in table["conditions"]]
    return {
        "suite": suite,
        "condition": Markup(plots.points(by_condition, conditions, metric, ceiling)),
        "voice": Markup(plots.points(by_voice, sorted(set(voices.values())), metric, ceiling)),
        "snr": _snr_figure(by_snr, metric) if bins else None,
    }


def _estimate(score: dict) -> plots.Estimate:
    return score["value"], score["low"], score["high"]


def _estimates(
    results: Results,
    answers: list[Answer],
    groups: dict[str, object],
    metric: str,
    num_bootstrap: int,
    seed: int,
) -> dict[int, dict]:
    """Mean and interval by system index and group; `groups` names the group of each clip id that has one."""
    values: dict[int, dict[object, list[tuple[str, float]]]] = {}
    for answer in answers:
        if answer.clip_id in groups:
            by_group = values.setdefault(results.systems.index(answer.system), {})
            by_group.setdefault(groups[answer.clip_id], []).append((answer.row_id, answer.metrics[metric]))
    return {
        index: {
            group: bootstrap(
                [score for _, score in pairs], num_bootstrap, seed, clusters=[row for row, _ in pairs]
            )
            for group, pairs in sorted(values[index].items())
        }
        for index in sorted(values)
    }


def _snr_bins(snr_db: dict[str, float]) -> dict[str, float]:
    """The middle of the bin each clip falls into, in dB; the bins are equally wide and span what there is."""
    if not snr_db:
        return {}
    edges = np.linspace(min(snr_db.values()), max(snr_db.values()), NUM_SNR_BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    return {clip_id: middles[np.digitize(snr, edges[1:-1])].item() for clip_id, snr in snr_db.items()}


def _snr_figure(by_snr: dict[int, dict[float, plots.Estimate]], metric: str) -> Markup:
    style = plots.metric_style(metric)
    series, bands = {}, {}
    for index, estimates in by_snr.items():
        means, lows, highs = (
            np.array(column) * style.scale for column in zip(*estimates.values(), strict=True)
        )
        series[index], bands[index] = (list(estimates), means), (lows, highs)
    return Markup(
        plots.lines(series, "signal-to-noise ratio (dB), middle of the bin", style.label, bands, width=5.4)
    )


def training_curves(results: Results) -> list[dict]:
    """{title, svg} of every curve that some method logged, against the optimizer's steps."""
    curves = []
    for phase, key, title, unit in TRAINING_CURVES:
        series = {}
        for method in results.methods:
            logged = [step for step in results.logs[method] if key in step and phase in (None, step["phase"])]
            if logged:
                steps = [step["step"] for step in logged]
                series[results.systems.index(method)] = (steps, [step[key] for step in logged])
        if series:
            curves.append({"title": title, "svg": Markup(plots.lines(series, "step", unit))})
    return curves


# ---- data, examples, time


def data_counts(results: Results) -> list[dict]:
    """{title, bars} of what the data stages kept and dropped; `bars` are (label, count), the largest first."""
    clips = results.clips.values()
    heldout = {clip.voice for clip in clips if clip.heldout_voice}
    voices = Counter(clip.voice + " (held out)" * (clip.voice in heldout) for clip in clips)
    rejected = [(f"rejected: {reason}", count) for reason, count in _ranked(results.synthesis["rejected"])]
    return [
        {"title": "What the teacher wrote", "bars": [("kept", results.synthesis["kept"]), *rejected]},
        {"title": "Quarantined clips", "bars": _ranked(results.validation["reasons"])},
        {
            "title": "Kept out of suites: clips, and rows that cannot be scored",
            "bars": _ranked(kept_out(results)),
        },
        {"title": "Accepted clips by voice", "bars": _ranked(voices)},
        {"title": "Accepted clips by condition", "bars": _ranked(Counter(clip.condition for clip in clips))},
    ]


def kept_out(results: Results) -> Counter[str]:
    """How many clips and rows of each suite are not scored, by reason."""
    counts: Counter[str] = Counter()
    for suite, part in results.validation["suites"].items():
        for reason, count in [*part["reasons"].items(), *part["refused"].items()]:
            counts[f"{suite}: {reason}"] += count
    return counts


def _ranked(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(label.replace("_", " "), count) for label, count in Counter(counts).most_common()]


def own_answers(results: Results) -> list[Answer]:
    """The answers to clips of our own making: recordings of an outside suite are not ours to copy into a page."""
    suites = {clip.suite for clip in results.clips.values()}
    return [answer for answer in results.answers if answer.suite in suites]


def pick_examples(answers: list[Answer], num_examples: int) -> list[str]:
    """Clip ids to encode_audio to: conditions, voices and suites in turn, hard conditions first; no score has a say."""
    left = {answer.clip_id: answer for answer in answers if answer.clip_id}
    seen: Counter[tuple[str, str]] = Counter()
    picked: list[Answer] = []

    def groups(answer: Answer) -> list[tuple[str, str]]:
        pair = (answer.condition, answer.voice)
        return [("condition", answer.condition), pair, ("voice", answer.voice), ("suite", answer.suite)]

    def rank(answer: Answer) -> tuple:
        return (
            [seen[group] for group in groups(answer)],
            -CONDITIONS.index(answer.condition),
            answer.clip_id,
        )

    while left and len(picked) < num_examples:
        picked.append(left.pop(min(left.values(), key=rank).clip_id))
        seen.update(groups(picked[-1]))
    picked.sort(key=lambda answer: answer.condition == "clean")  # stable
    return [answer.clip_id for answer in picked]


def example(results: Results, clip_id: str) -> dict:
    """One recording with what was said, what was heard and every system's answer.

    Keys: clip, wer, audio (data URL), said (list of (word, agrees)), heard (such a list by who hypotheses), teacher (None
    for a question of a suite), metric (the suite's, where its answers have it), answers ((system index, system,
    response, score), in the order of the systems).

    Raises:
        UserError: the clip, its file or the answer of a system is missing.
    """
    answers = {answer.system: answer for answer in results.answers if answer.clip_id == clip_id}
    row_id, suite, metrics = next(
        (answer.row_id, answer.suite, answer.metrics) for answer in answers.values()
    )
    answers |= {
        answer.system: answer
        for answer in results.answers
        if (answer.system, answer.suite, answer.row_id) == ("text", suite, row_id)
    }
    if missing := set(results.systems) - set(answers):
        raise UserError(f"clip {clip_id} has no answer of {', '.join(sorted(missing))}; run evaluate again")
    if clip_id not in results.clips or clip_id not in results.features:
        raise UserError(
            f"answers.jsonl scores clip {clip_id}, which validation did not accept; run evaluate again"
        )
    clip, feature = results.clips[clip_id], results.features[clip_id]
    metric = primary_metric(results.scores, suite)
    metric = metric if metric in metrics else next(iter(metrics))
    transcripts = {"Whisper": feature.judge_hypothesis, "student": feature.student_hypothesis}
    diffs = {who: word_diff(clip.transcript, text) for who, text in transcripts.items() if text is not None}
    encoded = base64.b64encode(results.recordings[clip_id].read_bytes()).decode()
    row = results.rows.get(row_id) if suite == "alignment" else None
    return {
        "clip": clip,
        "wer": feature.wer,
        "audio": f"data:audio/{Path(clip.path).suffix[1:]};base64,{encoded}",
        "said": diffs["Whisper"][0],
        "hypotheses": {who: words for who, (_, words) in diffs.items()},
        "teacher": row and row.completion,
        "metric": metric,
        "answers": [
            (index, system, answers[system].response, answers[system].metrics[metric])
            for index, system in enumerate(results.systems)
        ],
    }


def word_diff(transcript: str, hypothesis: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """The words of both, each with whether the other has it too, whatever its case and punctuation."""
    words = transcript.split(), hypothesis.split()
    keys = [[re.sub(r"[\W_]", "", word.lower()) for word in text] for text in words]
    agrees = [[False] * len(text) for text in words]
    for i, j, size in difflib.SequenceMatcher(None, *keys, autojunk=False).get_matching_blocks():
        agrees[0][i : i + size] = agrees[1][j : j + size] = [True] * size
    return tuple(list(zip(text, marks, strict=True)) for text, marks in zip(words, agrees, strict=True))


def minutes_by_stage(results: Results) -> list[tuple[str, float]]:
    """(stage, minutes) in the order of the chain."""
    return [
        ("synthesize", results.synthesis["minutes"]),
        ("voice", results.voice["minutes"]),
        ("features", results.measured["minutes"]),
        *((f"suite {name}", minutes) for name, minutes in results.suite_minutes.items()),
        *((f"align {method}", training["minutes"]) for method, training in results.training.items()),
        ("evaluate", results.scores["minutes"]),
    ]
