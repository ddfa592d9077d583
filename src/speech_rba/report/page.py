"""The report page: one HTML file with headline, tables, figures and examples.

The templates are read from the source tree, where the package is installed editable.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from speech_rba.errors import UserError
from speech_rba.report import plots
from speech_rba.report.examples import examples
from speech_rba.report.figures import ERROR_RATE, people_figure, suite_figures, training_curves
from speech_rba.report.results import Results, Style, plain
from speech_rba.report.tables import (
    check_tables,
    data_counts,
    gain_table,
    minutes_by_stage,
    people_tables,
    score_tables,
    wer_only_suites,
    word_error_rates,
)
from speech_rba.report.wording import headline, pair_sign


def render(results: Results, num_examples: int) -> str:
    """The page as HTML; it loads nothing from outside.

    Raises:
        UserError: no method was scored.
    """
    if not results.methods:
        raise UserError(
            f"no aligned method among the scored systems {results.systems}: run align and evaluate first"
        )
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            results=results,
            headline=headline(results),
            tables=score_tables(results),
            wer_only={
                suite: word_error_rates(results.scores, suite) for suite in wer_only_suites(results.scores)
            },
            people=[table | {"svg": people_figure(table)} for table in people_tables(results)],
            gains=[gain_table(results, suite) for suite in results.suites],
            figures=[suite_figures(results, suite) for suite in results.suites],
            curves=training_curves(results),
            checks=check_tables(results),
            counts=data_counts(results),
            examples=examples(results, num_examples),
            minutes=minutes_by_stage(results),
        )
    )


def environment() -> Environment:
    """Jinja with the constants and functions that the templates use."""
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.globals.update(
        glyphs=plots.GLYPHS,
        share=Style("recovery (%)", 100, 0),
        points=ERROR_RATE,
        pair_sign=pair_sign,
        name=plain,
    )
    return jinja
