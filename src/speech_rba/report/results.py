"""What the page shows: the outputs of the stages before, and how their scores are written."""

from dataclasses import dataclass
from pathlib import Path

from speech_rba.records import Answer, Clip, Feature, Row

REFERENCES = ("text", "cascade", "base")  # the systems that every method is compared with


@dataclass(frozen=True)
class Style:
    """How a score is written: `label` with its unit, shown as value * `scale` with so many decimals."""

    label: str
    scale: float = 1
    decimals: int = 3
    binary: bool = False
    needs_text_above_0: bool = False

    def text(self, value: float, sign: str = "") -> str:
        """`value` as written; `sign` is "+" for differences. A value that rounds to 0 has no minus."""
        return f"{value * self.scale:{sign}z.{self.decimals}f}".replace("-", "−")


@dataclass(frozen=True)
class Results:
    """Rows, clips and features by id, and each report as its stage wrote it."""

    rows: dict[str, Row]
    clips: dict[str, Clip]
    features: dict[str, Feature]
    answers: list[Answer]
    conditions: list[str]  # in the order of the tables
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
    data_docs: str | None = None  # the relative address of Great Expectations' Data Docs

    @property
    def systems(self) -> list[str]:
        return self.scores["systems"]

    @property
    def methods(self) -> list[str]:
        return [system for system in self.systems if system not in REFERENCES]

    @property
    def best(self) -> list[dict]:
        """The best method of each suite against the other systems."""
        return self.scores["comparisons"]["best"]

    @property
    def suites(self) -> list[str]:
        return [item["suite"] for item in self.best]

    def primary_metric(self, suite: str) -> str:
        return next(item["metric"] for item in self.best if item["suite"] == suite)

    def style(self, metric: str) -> Style:
        """How to write the scores called `metric`."""
        described = self.scores["metrics"].get(metric)
        return Style(**described) if described else Style(plain(metric))


def plain(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")
