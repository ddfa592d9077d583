"""data/topics.txt, data/constraints.jsonl -> artifacts/synthesize: rows.jsonl, rejected.jsonl, report.json."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from speech_rba.compute.device import fast_dtype
from speech_rba.config import Assets, Params, Synthesize
from speech_rba.data.ifeval import followed_share
from speech_rba.errors import UserError
from speech_rba.model.embedder import load_embedder
from speech_rba.model.frame import end_with_the_line, translation_frame
from speech_rba.model.language import load_language_model, load_tokenizer
from speech_rba.model.text import whole_sentences
from speech_rba.records import (
    Constraint,
    Instruction,
    Message,
    Record,
    Rejected,
    Row,
    Sampling,
    Split,
    read_jsonl,
    write_jsonl,
)
from speech_rba.stages import main, publish, workdir
from speech_rba.synthesis.constraints import constrained
from speech_rba.synthesis.filters import (
    SPEAKABLE,
    NearDuplicates,
    completion_fault,
    query_fault,
    translation_fault,
)
from speech_rba.synthesis.teacher import Text, ask_about, chat_ids, prequery, speak_of, template_hash, write

SETTINGS = {  # of each task, what says how many rows to keep
    "instruction": "num_instructions",
    "question": "num_questions",
    "constrained": "num_constrained",
    "translation": "num_translations",
}
ROOM = 1.25  # more texts fall to a held-out split than it has rows: else all would wait for its last few
TRIES = 4  # sampled answers to a question whose constraint the greedy answer does not keep
MAX_ROUNDS = 200  # a teacher that writes next to nothing usable is an error, not an endless loop


class Teacher(NamedTuple):
    model: PreTrainedModel
    exact: PreTrainedModel  # float32: in bfloat16 a greedy answer depends on its batch
    tokenizer: PreTrainedTokenizerBase
    unspeakable_V: torch.Tensor  # bool: the tokens that no spoken text holds
    embed: (
        Callable[[list[str]], torch.Tensor] | None
    )  # where it translates: tells whether two sentences say the same


class Candidate(Record):
    """One exchange as the teacher wrote it, before the filters."""

    task: str
    prompt: str
    prompt_finished: bool
    completion: str
    completion_finished: bool
    num_tokens: int
    round_trip: float | None = None  # cosine of a sentence and its translation translated back
    instructions: list[Instruction]


def run(params: Params, data: Path, out: Path, purpose: str = "alignment") -> None:
    """Rows that the filters kept, rejected ones with their reasons; rounds already written are not written again.

    The texts of the `purpose` "asr_adapter" are others than those of "alignment".
    """
    if purpose not in ("alignment", "asr_adapter"):
        raise UserError(f"no purpose {purpose!r}; allowed: alignment, asr_adapter")
    if purpose == "asr_adapter":
        others = params.synthesize.model_copy(
            update=params.asr_adapter.texts.model_dump() | {"num_constrained": 0}
        )
        params = params.model_copy(update={"synthesize": others})
    settings = params.synthesize
    topics = (data / "topics.txt").read_text().split("\n")
    topics = [t for t in topics if t.strip()]
    constraints = read_jsonl(data / "constraints.jsonl", Constraint) if settings.num_constrained else []
    work = workdir("synthesize", params, data / "topics.txt", data / "constraints.jsonl", purpose)
    started = time.perf_counter()
    writer = Writer(params, topics, constraints, work)
    rows, rejected, duplicates = [], [], NearDuplicates(settings.near_duplicate)
    for task in SETTINGS:
        for row in kept_rows(writer, task, duplicates):
            (rows if isinstance(row, Row) else rejected).append(row)
    report = {
        "kept": len(rows),
        "rejected": dict(Counter(r.reason for r in rejected)),
        "tokens_per_s": writer.tokens / writer.seconds if writer.seconds else None,
        "minutes": (time.perf_counter() - started) / 60,
    }
    with publish(out, work) as folder:
        write_jsonl(folder / "rows.jsonl", rows)
        write_jsonl(folder / "rejected.jsonl", rejected)
        (folder / "report.json").write_text(json.dumps(report, indent=2))
    print(f"{len(rows)} rows kept, {len(rejected)} refused; {writer.tokens} tokens in {writer.seconds:.0f} s")


@dataclass
class Writer:
    """Writes rounds of candidates, and counts what that takes; a round that `work` holds is not written again."""

    params: Params
    topics: list[str]
    constraints: list[Constraint]
    work: Path
    tokens: int = 0
    seconds: float = 0.0

    @cached_property
    def teacher(self) -> Teacher:
        return load_teacher(self.params.assets)

    def round(self, task: str, number: int) -> list[Candidate]:
        path = self.work / f"{task}-{number:03}.jsonl"
        if not path.exists():
            _ = self.teacher  # whose loading is no writing
            began = time.perf_counter()
            candidates = write_round(self.teacher, self.params, task, number, self.topics, self.constraints)
            self.seconds += time.perf_counter() - began
            self.tokens += sum(c.num_tokens for c in candidates)
            write_jsonl(path, candidates)
        return read_jsonl(path, Candidate)


def kept_rows(writer: Writer, task: str, duplicates: NearDuplicates) -> Iterator[Row | Rejected]:
    """What becomes of each candidate of a task, until every split has its rows.

    Raises:
        UserError: MAX_ROUNDS did not give them.
    """
    params, setting = writer.params, SETTINGS[task]
    left = quotas(params.synthesize, getattr(params.synthesize, setting))
    wanted = left.total()
    what = f"synthesize {setting.removeprefix('num_')}"
    with tqdm(total=wanted, desc=what, mininterval=2, disable=not wanted) as bar:
        for number in range(MAX_ROUNDS):
            if not left.total():
                return
            for candidate in writer.round(task, number):
                split = split_of(candidate.prompt, params.synthesize)
                if reason := fault(candidate, params, duplicates) if left[split] else "surplus":
                    yield refusal(candidate, reason)
                else:
                    yield accepted(candidate, split, params)
                    left[split] -= 1
                    bar.update()
    if left.total():
        raise UserError(
            f"{MAX_ROUNDS} rounds lack {left.total()} of {wanted} texts ({dict(left)}): lower synthesize.{setting}, or "
            "loosen its filters"
        )


def load_teacher(assets: Assets) -> Teacher:
    """The teacher; a query that gets an unspeakable token is not written on."""
    name = assets.teacher
    model, tokenizer = load_language_model(name, fast_dtype()), load_tokenizer(name)
    if assets.target_language:
        end_with_the_line(tokenizer)
    exact = model if model.dtype == torch.float32 else load_language_model(name, torch.float32)
    unspeakable = torch.ones(model.config.vocab_size, dtype=torch.bool)
    for i in range(len(tokenizer)):
        unspeakable[i] = not SPEAKABLE.fullmatch(tokenizer.decode([i]))
    embed = load_embedder(assets.embedder) if assets.target_language else None
    return Teacher(model, exact, tokenizer, unspeakable, embed)


def write_round(
    teacher: Teacher, params: Params, task: str, number: int, topics: list[str], constraints: list[Constraint]
) -> list[Candidate]:
    """One batch of queries and the teacher's answers to those that can be spoken."""
    settings = params.synthesize
    seed = int.from_bytes(hashlib.sha256(f"{settings.seed} {task} {number}".encode()).digest()[:4])
    queries, given = write_queries(teacher, params, task, number, topics, constraints, seed)
    good = [
        i
        for i, q in enumerate(queries)
        if not query_fault(q.content, q.finished, settings.min_words, settings.max_words)
    ]
    asked = {i: reply_to(queries[i].content, teacher.tokenizer, params.assets) for i in good}
    answers = write_answers(teacher, params, asked, given, seed)
    kept = [i for i in good if task == "translation" and answers[i].content]
    cosines = round_trips(teacher, params, [(queries[i].content, answers[i].content) for i in kept])
    cosine = dict(zip(kept, cosines, strict=True))
    nothing = Text("", False, 0)
    return [
        Candidate(
            task=task,
            prompt=query.content,
            prompt_finished=query.finished,
            completion=(answer := answers.get(i, nothing)).content,
            completion_finished=answer.finished,
            num_tokens=query.num_tokens + answer.num_tokens,
            round_trip=cosine.get(i),
            instructions=given[i],
        )
        for i, query in enumerate(queries)
    ]


def write_queries(
    teacher: Teacher,
    params: Params,
    task: str,
    number: int,
    topics: list[str],
    constraints: list[Constraint],
    seed: int,
) -> tuple[list[Text], list[list[Instruction]]]:
    """What users say in one round, and the instructions that each gives."""
    settings, tokenizer, size = params.synthesize, teacher.tokenizer, params.synthesize.batch_size
    chosen = [topics[(number * size + i) % len(topics)] for i in range(size)]
    if task == "instruction":
        prompts = [tokenizer(prequery(tokenizer), add_special_tokens=False).input_ids] * size
    elif task == "translation":
        prompts = [tokenizer(speak_of(t)).input_ids for t in chosen]
    else:
        prompts = [chat_ids(tokenizer, ask_about(t), reply=True) for t in chosen]
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "seed": seed}
    limits = {"max_new_tokens": settings.max_query_tokens, "stop_V": teacher.unspeakable_V}
    queries = write(teacher.model, tokenizer, prompts, **limits, **sampling)
    if task != "constrained":
        return queries, [[] for _ in queries]
    turns = [constraints[(number * size + i) % len(constraints)] for i in range(size)]
    said = [constrained(q.content, t, c) for q, t, c in zip(queries, chosen, turns, strict=True)]
    queries = [replace(q, content=prompt) for q, (prompt, _) in zip(queries, said, strict=True)]
    return queries, [[instruction] for _, instruction in said]


def write_answers(
    teacher: Teacher, params: Params, asked: dict[int, list[int]], given: list[list[Instruction]], seed: int
) -> dict[int, Text]:
    """The greedy answer to each prompt of `asked`; where it breaks an instruction, the first of TRIES sampled ones that
    breaks none, if one does."""
    settings = params.synthesize
    greedy = {
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": seed,
        "max_new_tokens": settings.max_completion_tokens,
    }
    written = write(teacher.exact, teacher.tokenizer, list(asked.values()), **greedy) if asked else []
    answers = dict(zip(asked, written, strict=True))
    places = [i for i, answer in answers.items() if not keeps_to(answer, given[i]) for _ in range(TRIES)]
    sampled = greedy | {"temperature": settings.temperature, "top_p": settings.top_p}
    again = write(teacher.model, teacher.tokenizer, [asked[i] for i in places], **sampled) if places else []
    better: dict[int, Text] = {}
    for i, text in zip(places, again, strict=True):
        if keeps_to(text, given[i]):
            better.setdefault(i, text)
    return answers | better


def keeps_to(answer: Text, instructions: list[Instruction]) -> bool:
    """Whether what would be kept of an answer follows the instructions."""
    return followed_share(whole_sentences(answer.content, answer.finished), instructions) == 1


def round_trips(teacher: Teacher, params: Params, pairs: list[tuple[str, str]]) -> list[float]:
    """How near each (sentence, translation) comes to the sentence when the teacher translates it back: -1 to 1."""
    if not pairs:
        return []
    tokenizer, limit = teacher.tokenizer, params.synthesize.max_completion_tokens
    before, after = translation_frame(tokenizer, params.assets.target_language, back=True)
    prompts = [[*before, *tokenizer(text, add_special_tokens=False).input_ids, *after] for _, text in pairs]
    back = write(teacher.model, tokenizer, prompts, max_new_tokens=limit, temperature=0.0, top_p=1.0, seed=0)
    said, returned = (
        teacher.embed([sentence for sentence, _ in pairs]),
        teacher.embed([text.content for text in back]),
    )
    return (said * returned).sum(-1).tolist()


def reply_to(query: str, tokenizer: PreTrainedTokenizerBase, assets: Assets) -> list[int]:
    """The prompt after which the teacher answers `query`, or translates it."""
    if assets.target_language:
        before, after = translation_frame(tokenizer, assets.target_language)
        return [*before, *tokenizer(query, add_special_tokens=False).input_ids, *after]
    system = [{"role": "system", "content": assets.system_prompt}] if assets.system_prompt else []
    return chat_ids(tokenizer, [*system, {"role": "user", "content": query}], reply=True)


def fault(candidate: Candidate, params: Params, duplicates: NearDuplicates) -> str | None:
    """The first rule that the candidate breaks."""
    settings, language = params.synthesize, params.assets.target_language
    completion = whole_sentences(candidate.completion, candidate.completion_finished)
    return (
        query_fault(candidate.prompt, candidate.prompt_finished, settings.min_words, settings.max_words)
        or completion_fault(completion)
        or (translation_fault(candidate.prompt, completion, language) if language else None)
        or ("not_followed" if followed_share(completion, candidate.instructions) < 1 else None)
        or ("round_trip" if lost_on_the_way(candidate, settings) else None)
        or duplicates.add(candidate.prompt)
    )


def lost_on_the_way(candidate: Candidate, settings: Synthesize) -> bool:
    """Whether a translation, translated back, says something else."""
    return candidate.round_trip is not None and candidate.round_trip < settings.min_round_trip


def refusal(candidate: Candidate, reason: str) -> Rejected:
    return Rejected(
        task=candidate.task, prompt=candidate.prompt, completion=candidate.completion, reason=reason
    )


def quotas(settings: Synthesize, wanted: int) -> Counter[Split]:
    """How many of the `wanted` rows each split gets: of three or more one at least where its share is above 0."""
    held_out = {"validation": settings.validation_share, "test": settings.test_share}
    left = Counter(
        {split: max(wanted > 2, round(wanted * share)) for split, share in held_out.items() if share}
    )
    left["train"] = max(0, wanted - left.total())
    return left


def split_of(prompt: str, settings: Synthesize) -> Split:
    """It follows from the text alone, so that no text changes sides when other data is written.

    A student that goes on from another run's adapter would else be tested on what it has learned.
    """
    place = int.from_bytes(text_digest(prompt)[:4]) / 2**32
    test, validation = settings.test_share * ROOM, settings.validation_share * ROOM
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def text_digest(prompt: str) -> bytes:
    return hashlib.sha256(prompt.lower().encode()).digest()


def accepted(candidate: Candidate, split: Split, params: Params) -> Row:
    settings = params.synthesize
    completion = whole_sentences(candidate.completion, candidate.completion_finished)
    return Row(
        id=f"{candidate.task[0]}-{text_digest(candidate.prompt)[:6].hex()}",
        task=candidate.task,
        split=split,
        messages=[
            Message(role="user", content=candidate.prompt),
            Message(role="assistant", content=completion),
        ],
        prompt=candidate.prompt,
        completion=completion,
        completion_ended=candidate.completion_finished,
        teacher=params.assets.teacher,
        template_hash=template_hash(
            f"{candidate.task} {params.assets.target_language or params.assets.system_prompt}"
        ),
        sampling=Sampling(
            temperature=settings.temperature, top_p=settings.top_p, max_new_tokens=settings.max_query_tokens
        ),
        seed=settings.seed,
        instructions=candidate.instructions,
    )


if __name__ == "__main__":
    main(run)
