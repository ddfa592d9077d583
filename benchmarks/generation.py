"""Tokens per second of the teacher's engine against a plain `generate` of transformers: `make bench`.

Both write the same batch under the same settings, in turn; the ratio is taken pair by pair. What follows a row's end is
not counted.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from speech_rba.compute.device import fast_dtype
from speech_rba.config import load_params
from speech_rba.model.language import _folder, load_language_model, load_tokenizer
from speech_rba.synthesis.prompts import chat_ids, prequery
from speech_rba.synthesis.teacher import Decoding, write

NUM_PAIRS = 3


def count(rows: list[list[int]], eos: int) -> int:
    return sum(row.index(eos) + 1 if eos in row else len(row) for row in rows)


def plain(model, tokenizer, prompts: list[list[int]], limit: int, **sampling) -> int:
    length = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.eos_token_id] * (length - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    eos = tokenizer.eos_token_id
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=limit, eos_token_id=eos, pad_token_id=eos, **sampling
    )
    return count(out[:, length:].tolist(), eos)


def main() -> None:
    params = load_params()
    name, settings = params.assets.teacher, params.synthesize
    tokenizer = load_tokenizer(name)
    stock = AutoModelForCausalLM.from_pretrained(_folder(name)).eval()
    size = int(sys.argv[1]) if len(sys.argv) > 1 else settings.batch_size
    topics = Path("data/topics.txt").read_text().split("\n")
    question = "Could you tell me something interesting about {}?"
    chats = [
        chat_ids(tokenizer, [{"role": "user", "content": question.format(topics[i % 200])}], reply=True)
        for i in range(size)
    ]
    invent = [tokenizer(prequery(tokenizer), add_special_tokens=False).input_ids] * size
    top_p, temperature = settings.top_p, settings.temperature
    drawn = {"do_sample": True, "top_p": top_p, "temperature": temperature, "top_k": 0}
    jobs = {  # what it is, prompts, most new tokens, ours, theirs, our dtype
        "invent queries": (invent, settings.max_query_tokens, {"temperature": temperature, "top_p": top_p}, drawn,
                           fast_dtype()),
        "answer greedily": (chats, settings.max_completion_tokens, {"temperature": 0.0, "top_p": 1.0},
                            {"do_sample": False}, torch.float32),
    }  # fmt: skip
    seconds, tokens = [0.0, 0.0], [0, 0]
    for job, (prompts, limit, ours, theirs, dtype) in jobs.items():
        model, ratios = load_language_model(name, dtype), []
        for pair in range(NUM_PAIRS + 1):  # the first warms up
            began = time.perf_counter()
            texts = write(model, tokenizer, prompts, Decoding(max_new_tokens=limit, seed=pair, **ours))
            middle = time.perf_counter()
            torch.manual_seed(pair)
            stock_tokens = plain(stock, tokenizer, prompts, limit, **theirs)
            took = middle - began, time.perf_counter() - middle
            wrote = sum(t.num_tokens for t in texts), stock_tokens
            speeds = wrote[0] / took[0], wrote[1] / took[1]
            if pair:
                seconds = [total + new for total, new in zip(seconds, took, strict=True)]
                tokens = [total + new for total, new in zip(tokens, wrote, strict=True)]
                ratios.append(speeds[0] / speeds[1])
                print(f"{job}: {speeds[0]:.0f} against {speeds[1]:.0f} tokens/s, {ratios[-1]:.2f} times")
        print(
            f"{job}, batch of {size}: median {statistics.median(ratios):.2f} times plain generate, n = {NUM_PAIRS}"
        )
    print(f"both: {tokens[0] / seconds[0] / (tokens[1] / seconds[1]):.2f} times")


if __name__ == "__main__":
    main()
