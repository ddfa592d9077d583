"""Instruction following of a suite, by the definitions of IFEval (arXiv 2311.07911) and Speech-IFEval (2505.19037)."""

from statistics import fmean

from speech_rba.data.ifeval import follows, follows_loosely
from speech_rba.evaluation.scoring import corpora
from speech_rba.records import Answer, Instruction

CHECKS = {"strict": follows, "loose": follows_loosely}


def verdicts(response: str, instructions: list[Instruction]) -> dict[str, list[bool]]:
    """{strict, loose}: whether the response follows each instruction."""
    return {
        name: [check(response, i.name, i.arguments) for i in instructions] for name, check in CHECKS.items()
    }


def followed(answers: list[Answer], instructions: dict[tuple[str, str], list[Instruction]]) -> list[dict]:
    """{suite, condition, system, n, prompt_strict, prompt_loose, instruction_strict, instruction_loose, forgetting} of
    every suite with instructions, over the answers to prompts that give some.

    Of prompts the share in which all instructions are followed, of instructions the share that is. The forgetting rate
    is the share of the text system's strict instruction accuracy that a system lacks, None where the text follows none.
    """
    found: list[dict] = []
    answers = [a for a in answers if instructions.get((a.suite, a.row_id))]
    for suite in dict.fromkeys(a.suite for a in answers):
        ceiling = 0.0
        for where, said in corpora(answers, suite):
            judged = [verdicts(a.response, instructions[suite, a.row_id]) for a in said]
            shares = {}
            for name in CHECKS:
                shares[f"prompt_{name}"] = fmean(all(v[name]) for v in judged)
                shares[f"instruction_{name}"] = fmean(right for v in judged for right in v[name])
            strict = shares["instruction_strict"]
            ceiling = strict if where["system"] == "text" else ceiling
            found.append(where | shares | {"forgetting": 1 - strict / ceiling if ceiling else None})
    return found
