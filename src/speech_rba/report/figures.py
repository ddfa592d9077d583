"""The figures of the page: scores by condition, voice and SNR, and training curves."""

import numpy as np
from markupsafe import Markup

from speech_rba.report import plots
from speech_rba.report.results import Results, Style, plain
from speech_rba.report.tables import score_table

ERROR_RATE = Style("word error rate (%)", 100, 1)
TRAINING_CURVES = (  # phase (None: any), name in the log, title, unit
    ("sft", "loss", "Loss on the teacher's answers", "cross-entropy (nats)"),
    ("rba", "loss", "Policy loss", "loss"),
    (None, "reward", "Reward", "weighted sum"),
    (None, "rewards/teacher_pmi/mean", "Reward: mutual information", "nats per token"),
    (None, "rewards/teacher_similarity/mean", "Reward: teacher similarity", "cosine"),
    (None, "rewards/length/mean", "Reward: length", "score"),
    (None, "rewards/repetition/mean", "Reward: repetition", "score"),
    (None, "rewards/bleu/mean", "Reward: BLEU", "sentence BLEU"),
    (None, "rewards/chrf/mean", "Reward: chrF2", "sentence chrF2"),
    (None, "teacher_divergence", "Divergence from the teacher", "nats per token"),
    (None, "kl", "KL from the reference model", "nats"),
    (None, "completions/mean_length", "Answer length", "tokens"),
    (None, "completions/clipped_ratio", "Answers cut at the token limit", "share"),
    (None, "frac_reward_zero_std", "Groups with equal rewards", "share"),
)


def suite_figures(results: Results, suite: str) -> dict:
    """SVG of a suite's primary metric: {suite, condition, voice, snr}.

    `snr` is None where no clip has added noise.
    """
    style = results.style(results.primary_metric(suite))
    table = score_table(results, suite, results.primary_metric(suite))
    text = estimate(table["text"])
    by_condition = {
        index: {plain(name): estimate(cell) for name, cell in cells.items()}
        for index, _, cells in table["systems"]
    }
    by_voice, by_snr = grouped(results, "by_voice", suite), grouped(results, "by_snr", suite)
    voices = sorted({voice for estimates in by_voice.values() for voice in estimates})
    conditions = [plain(condition) for condition in table["conditions"]]
    return {
        "suite": suite,
        "condition": Markup(plots.points(by_condition, conditions, style, text)),
        "voice": Markup(plots.points(by_voice, voices, style, text)),
        "snr": snr_figure(by_snr, style) if by_snr else None,
    }


def people_figure(table: dict) -> Markup:
    """SVG of the word error rates of a table of `people_tables`, by set and condition."""
    estimates: dict[int, dict[str, plots.Estimate]] = {}
    for _, label, rows in table["parts"][:2]:
        for row in rows:
            category = f"{plain(row[label])}, {plain(row['condition'])}"
            for index, part in enumerate(row["transcribers"]):
                value = part["wer"]
                interval = (value, value) if part["low"] is None else (part["low"], part["high"])
                estimates.setdefault(index, {})[category] = (value, *interval)
    categories = list(dict.fromkeys(name for by_name in estimates.values() for name in by_name))
    return Markup(plots.points(estimates, categories, ERROR_RATE, None))


def estimate(row: dict) -> plots.Estimate:
    return row["value"], row["low"], row["high"]


def grouped(results: Results, table: str, suite: str) -> dict[int, dict]:
    """The estimates of one table of `comparisons`, by system index and group."""
    estimates: dict[int, dict] = {}
    for row in results.scores["comparisons"][table]:
        if row["suite"] == suite:
            by_group = estimates.setdefault(results.systems.index(row["system"]), {})
            by_group[row["group"]] = estimate(row)
    return estimates


def snr_figure(by_snr: dict[int, dict[float, plots.Estimate]], style: Style) -> Markup:
    series, bands = {}, {}
    for index, estimates in by_snr.items():
        columns = (np.array(column) * style.scale for column in zip(*estimates.values(), strict=True))
        means, lows, highs = columns
        series[index], bands[index] = (list(estimates), means), (lows, highs)
    xlabel = "signal-to-noise ratio (dB), middle of the bin"
    return Markup(plots.lines(series, xlabel, style.label, bands, width=5.4))


def training_curves(results: Results) -> list[dict]:
    """{title, svg} of every curve that a method logs, against the optimizer's steps."""
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
