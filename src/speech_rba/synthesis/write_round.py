"""One round of the teacher: a batch of queries, and its answers to those that can be spoken."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from speech_rba.config import Params, Synthesize
from speech_rba.data.ifeval import followed_share
from speech_rba.model.text import whole_sentences
from speech_rba.records import Constraint, Instruction, Record, Task, read_jsonl
from speech_rba.synthesis.constraints import constrained
from speech_rba.synthesis.filters import query_fault
from speech_rba.synthesis.prompts import (
    back_translation_ids,
    chat_ids,
    prequery,
    question_chat,
    reply_ids,
    sentence_list,
)
from speech_rba.synthesis.teacher import Decoding, Teacher, Text, write

TRIES = 4  # sampled answers where the greedy answer breaks the constraint
NO_ANSWER = Text("", False, 0)
Item = TypeVar("Item")


class Candidate(Record):
    """One exchange as the teacher wrote it, before the filters."""

    task: Task
    prompt: str
    prompt_finished: bool
    completion: str
    completion_finished: bool
    num_tokens: int
    round_trip: float | None = None  # cosine of a sentence and its translation translated back
    instructions: list[Instruction]


@dataclass(frozen=True)
class Sources:
    """The topics of questions and sentences, and the constraints on answers."""

    topics: list[str]
    constraints: list[Constraint]


def read_sources(settings: Synthesize, data: Path) -> Sources:
    """The topics, and the constraints where the parameters ask for constrained questions."""
    topics = [topic for topic in (data / "topics.txt").read_text().split("\n") if topic.strip()]
    if not settings.num_constrained:
        return Sources(topics, [])
    return Sources(topics, read_jsonl(data / "constraints.jsonl", Constraint))


@dataclass(frozen=True)
class Round:
    """A batch of one task; `number` counts the rounds of the task from 0 on."""

    task: Task
    number: int
    settings: Synthesize

    @property
    def seed(self) -> int:
        key = f"{self.settings.seed} {self.task} {self.number}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4])

    def in_turn(self, items: Sequence[Item]) -> list[Item]:
        """An item for each query of the round, which goes on where the round before stopped."""
        size = self.settings.batch_size
        return [items[(self.number * size + i) % len(items)] for i in range(size)]


def write_round(teacher: Teacher, params: Params, sources: Sources, current: Round) -> list[Candidate]:
    """The candidates of one round, one a query."""
    queries, instructions = write_queries(teacher, sources, current)
    return answered(teacher, params, current, queries, instructions)


def answer_feedback(teacher: Teacher, params: Params, prompts: list[str]) -> list[Candidate]:
    """The candidates of people's prompts."""
    queries = [Text(prompt, True, 0) for prompt in prompts]
    return answered(teacher, params, Round("feedback", 0, params.synthesize), queries, [[] for _ in queries])


def answered(
    teacher: Teacher,
    params: Params,
    current: Round,
    queries: list[Text],
    instructions: list[list[Instruction]],
) -> list[Candidate]:
    """The queries with the teacher's answers to those that can be spoken."""
    settings = params.synthesize
    limits = (settings.min_words, settings.max_words)
    speakable = [i for i, q in enumerate(queries) if not query_fault(q.content, q.finished, *limits)]
    prompts = {i: reply_ids(queries[i].content, teacher.tokenizer, params.assets) for i in speakable}
    answers = write_answers(teacher, current, prompts, instructions)
    translated = [i for i in speakable if current.task == "translation" and answers[i].content]
    pairs = [(queries[i].content, answers[i].content) for i in translated]
    cosines = dict(zip(translated, round_trips(teacher, params, pairs), strict=True))
    return [
        Candidate(
            task=current.task,
            prompt=query.content,
            prompt_finished=query.finished,
            completion=answers.get(i, NO_ANSWER).content,
            completion_finished=answers.get(i, NO_ANSWER).finished,
            num_tokens=query.num_tokens + answers.get(i, NO_ANSWER).num_tokens,
            round_trip=cosines.get(i),
            instructions=instructions[i],
        )
        for i, query in enumerate(queries)
    ]


def write_queries(
    teacher: Teacher, sources: Sources, current: Round
) -> tuple[list[Text], list[list[Instruction]]]:
    """The users' queries of one round, and the instructions that each gives."""
    settings = current.settings
    decoding = Decoding(
        max_new_tokens=settings.max_query_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=current.seed,
        stop_V=teacher.unspeakable_V,
    )
    queries = write(teacher.model, teacher.tokenizer, query_prompts(teacher, sources, current), decoding)
    if current.task != "constrained":
        return queries, [[] for _ in queries]
    turns = zip(queries, current.in_turn(sources.topics), current.in_turn(sources.constraints), strict=True)
    pairs = [constrained(query.content, topic, constraint) for query, topic, constraint in turns]
    prompts = [prompt for prompt, _ in pairs]
    queries = [replace(query, content=prompt) for query, prompt in zip(queries, prompts, strict=True)]
    return queries, [[instruction] for _, instruction in pairs]


def query_prompts(teacher: Teacher, sources: Sources, current: Round) -> list[list[int]]:
    """The token ids after which the teacher writes each query of one round."""
    tokenizer = teacher.tokenizer
    if current.task == "instruction":
        ids = tokenizer(prequery(tokenizer), add_special_tokens=False).input_ids
        return [ids] * current.settings.batch_size
    topics = current.in_turn(sources.topics)
    if current.task == "translation":
        return [tokenizer(sentence_list(topic)).input_ids for topic in topics]
    return [chat_ids(tokenizer, question_chat(topic), reply=True) for topic in topics]


def write_answers(
    teacher: Teacher, current: Round, prompts: dict[int, list[int]], instructions: list[list[Instruction]]
) -> dict[int, Text]:
    """The greedy answer to each prompt; where it breaks an instruction, the first of TRIES sampled ones that
    follows all, if one does."""
    settings, tokenizer = current.settings, teacher.tokenizer
    greedy = Decoding(settings.max_completion_tokens, temperature=0.0, top_p=1.0, seed=current.seed)
    written = write(teacher.exact, tokenizer, list(prompts.values()), greedy)
    answers = dict(zip(prompts, written, strict=True))
    places = [
        i for i, answer in answers.items() if not follows(answer, instructions[i]) for _ in range(TRIES)
    ]
    sampled = replace(greedy, temperature=settings.temperature, top_p=settings.top_p)
    retries = write(teacher.model, tokenizer, [prompts[i] for i in places], sampled)
    better: dict[int, Text] = {}
    for i, text in zip(places, retries, strict=True):
        if follows(text, instructions[i]):
            better.setdefault(i, text)
    return answers | better


def follows(answer: Text, instructions: list[Instruction]) -> bool:
    """Whether the whole sentences of an answer, which are kept, follow the instructions."""
    return followed_share(whole_sentences(answer.content, answer.finished), instructions) == 1


def round_trips(teacher: Teacher, params: Params, pairs: list[tuple[str, str]]) -> list[float]:
    """For each (sentence, translation) the cosine, -1 to 1, of the sentence and the translation translated
    back."""
    language, embed = params.assets.target_language, teacher.embed
    if not pairs or language is None or embed is None:
        return []
    prompts = [back_translation_ids(translation, teacher.tokenizer, language) for _, translation in pairs]
    greedy = Decoding(params.synthesize.max_completion_tokens, temperature=0.0, top_p=1.0, seed=0)
    back = write(teacher.model, teacher.tokenizer, prompts, greedy)
    sentences = embed([sentence for sentence, _ in pairs])
    returned = embed([text.content for text in back])
    return (sentences * returned).sum(-1).tolist()
