"""Tokens per second of the teacher's engine against a plain `generate` of transformers: `make bench`.

Both write the same batch under the same settings, in turn; the ratio is taken pair by pair. Tokens after a
row's end do not count.
"""

import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from speech_rba.assets.gguf import language_model_folder
from speech_rba.compute.device import device, fast_dtype
from speech_rba.config import Synthesize, load_params
from speech_rba.model.language import load_language_model, load_tokenizer
from speech_rba.synthesis.prompts import chat_ids, prequery
from speech_rba.synthesis.teacher import Decoding, write

NUM_PAIRS = 3
QUESTION = "Could you tell me something interesting about {}?"


@dataclass(frozen=True)
class Job:
    """Prompts to continue, and the sampling of this engine and of transformers."""

    name: str
    prompts: list[list[int]]
    max_new_tokens: int
    sampling: dict
    plain_sampling: dict
    dtype: torch.dtype  # of this engine


@dataclass
class Times:
    """Seconds and tokens of this engine and of the plain one, of each pair."""

    seconds: list[tuple[float, float]] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)

    def add(self, seconds: tuple[float, float], tokens: tuple[int, int]) -> None:
        self.seconds.append(seconds)
        self.tokens.append(tokens)

    def speeds(self) -> list[tuple[float, float]]:
        """Tokens per second of both engines, pair by pair."""
        pairs = zip(self.tokens, self.seconds, strict=True)
        return [(tokens[0] / seconds[0], tokens[1] / seconds[1]) for tokens, seconds in pairs]

    def ratios(self) -> list[float]:
        return [speed / plain_speed for speed, plain_speed in self.speeds()]


def num_tokens(rows: list[list[int]], eos: int) -> int:
    """The tokens of all rows up to their ends."""
    return sum(row.index(eos) + 1 if eos in row else len(row) for row in rows)


def write_plainly(model, tokenizer, job: Job) -> int:
    """The number of tokens that transformers' `generate` writes."""
    eos, length = tokenizer.eos_token_id, max(map(len, job.prompts))
    padding = [length - len(p) for p in job.prompts]
    ids = [[eos] * n + p for n, p in zip(padding, job.prompts, strict=True)]
    mask = [[0] * n + [1] * len(p) for n, p in zip(padding, job.prompts, strict=True)]
    out = model.generate(
        torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        max_new_tokens=job.max_new_tokens,
        eos_token_id=eos,
        pad_token_id=eos,
        **job.plain_sampling,
    )
    return num_tokens(out[:, length:].tolist(), eos)


def make_jobs(tokenizer, settings: Synthesize, size: int) -> list[Job]:
    """Invention of queries, sampled, and greedy answers, each for `size` prompts."""
    topics = Path("data/topics.txt").read_text().split("\n")
    questions = [QUESTION.format(topics[i % 200]) for i in range(size)]
    chats = [chat_ids(tokenizer, [{"role": "user", "content": q}], reply=True) for q in questions]
    queries = [tokenizer(prequery(tokenizer), add_special_tokens=False).input_ids] * size
    sampled = {"temperature": settings.temperature, "top_p": settings.top_p}
    greedy = {"temperature": 0.0, "top_p": 1.0}
    plain = sampled | {"do_sample": True, "top_k": 0}
    return [
        Job("invent queries", queries, settings.max_query_tokens, sampled, plain, fast_dtype()),
        Job(
            "answer greedily",
            chats,
            settings.max_completion_tokens,
            greedy,
            {"do_sample": False},
            torch.float32,
        ),
    ]


def run(job: Job, name: str, plain_model, tokenizer) -> Times:
    """The times of NUM_PAIRS pairs; a first pair warms up."""
    model, times = load_language_model(name, job.dtype), Times()
    for pair in range(NUM_PAIRS + 1):
        started = time.perf_counter()
        decoding = Decoding(max_new_tokens=job.max_new_tokens, seed=pair, **job.sampling)
        texts = write(model, tokenizer, job.prompts, decoding)
        middle = time.perf_counter()
        torch.manual_seed(pair)
        num_plain_tokens = write_plainly(plain_model, tokenizer, job)
        seconds = middle - started, time.perf_counter() - middle
        if pair:
            times.add(seconds, (sum(t.num_tokens for t in texts), num_plain_tokens))
            (speed, plain_speed), ratio = times.speeds()[-1], times.ratios()[-1]
            print(f"{job.name}: {speed:.0f} against {plain_speed:.0f} tokens/s, {ratio:.2f} times")
    return times


def main() -> None:
    params = load_params()
    name, settings = params.assets.teacher, params.synthesize
    tokenizer = load_tokenizer(name)
    plain_model = AutoModelForCausalLM.from_pretrained(language_model_folder(name)).eval().to(device())
    size = int(sys.argv[1]) if len(sys.argv) > 1 else settings.batch_size
    total = Times()
    for job in make_jobs(tokenizer, settings, size):
        times = run(job, name, plain_model, tokenizer)
        median = statistics.median(times.ratios())
        print(f"{job.name}, batch of {size}: median {median:.2f} times plain generate, n = {NUM_PAIRS}")
        total.seconds += times.seconds
        total.tokens += times.tokens
    seconds = [sum(column) for column in zip(*total.seconds, strict=True)]
    tokens = [sum(column) for column in zip(*total.tokens, strict=True)]
    print(f"both: {tokens[0] / seconds[0] / (tokens[1] / seconds[1]):.2f} times")


if __name__ == "__main__":
    main()
