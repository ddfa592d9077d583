"""Questions with an instruction for the answer that code can check (data/ifeval.py)."""

from speech_rba.records import Constraint, Instruction

TOPIC = "{topic}"


def constrained(question: str, topic: str, constraint: Constraint) -> tuple[str, Instruction]:
    """The question followed by the constraint in words, and the instruction that the answer must follow."""

    def filled(value: str | int | list[str]) -> str | int | list[str]:
        if isinstance(value, list):
            return [item.replace(TOPIC, topic) for item in value]
        return value.replace(TOPIC, topic) if isinstance(value, str) else value

    arguments = {name: filled(value) for name, value in constraint.arguments.items()}
    return f"{question} {filled(constraint.says)}", Instruction(name=constraint.name, arguments=arguments)
