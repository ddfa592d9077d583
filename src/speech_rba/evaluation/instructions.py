"""Instruction following of a suite, as IFEval (arXiv 2311.07911) and Speech-IFEval (2505.19037) define it."""

from statistics import fmean

from speech_rba.data.ifeval import follows, follows_loosely
from speech_rba.evaluation.score_table import corpora
from speech_rba.records import Answer, Instruction, Question

CRITERIA = {"strict": follows, "loose": follows_loosely}


def instruction_verdicts(response: str, instructions: list[Instruction]) -> dict[str, list[bool]]:
    """{strict, loose}: whether the response follows each instruction."""
    return {
        name: [follows(response, i.name, i.arguments) for i in instructions]
        for name, follows in CRITERIA.items()
    }


def instruction_scores(answers: list[Answer], questions: dict[tuple[str, str], Question]) -> list[dict]:
    """The shares of prompts and of instructions that each system follows, and its forgetting rate.

    The keys are suite, condition, system, n, prompt_strict, prompt_loose, instruction_strict,
    instruction_loose and forgetting. `answers` are those to prompts with instructions. The shares of prompts
    are those in which all instructions are followed. The forgetting rate is the share of the text system's
    strict instruction accuracy that a system lacks, None where the text system follows none.
    """
    rows: list[dict] = []
    for suite in dict.fromkeys(a.suite for a in answers):
        text_accuracy = 0.0
        for labels, corpus in corpora(answers, suite):
            shares = instruction_shares(corpus, questions)
            strict = shares["instruction_strict"]
            if labels["system"] == "text":
                text_accuracy = strict
            forgetting = 1 - strict / text_accuracy if text_accuracy else None
            rows.append(labels | shares | {"forgetting": forgetting})
    return rows


def instruction_shares(corpus: list[Answer], questions: dict[tuple[str, str], Question]) -> dict[str, float]:
    """The shares of prompts and of instructions that are followed, by each criterion."""
    verdicts = [instruction_verdicts(a.response, questions[a.suite, a.row_id].instructions) for a in corpus]
    shares = {}
    for name in CRITERIA:
        shares[f"prompt_{name}"] = fmean(all(v[name]) for v in verdicts)
        shares[f"instruction_{name}"] = fmean(followed for v in verdicts for followed in v[name])
    return shares
