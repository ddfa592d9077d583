"""The teacher LLM: it invents what users say, asks questions about topics, and answers both."""

import hashlib
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Written for this project: they show a small model the form of a question.
EXAMPLES = {
    "whales": "What is the largest whale in the world?",
    "coffee": "Which country grows the most coffee?",
    "paper": "What is paper made of?",
    "kings": "Who was the first king of England?",
}
SENTENCES = {
    "whales": "We saw two whales from the boat this morning.",
    "coffee": "I would like a cup of coffee without sugar.",
    "paper": "There is no paper left in the printer.",
    "kings": "The old king lived in a castle on the hill.",
    "snow": "Did it snow in your village last winter?",
    "shoes": "Please take off your shoes at the door.",
}


@dataclass(frozen=True)
class Text:
    content: str
    finished: bool  # the model ended it, not the token limit
    num_tokens: int


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict], reply: bool) -> list[int]:
    """The token ids of a chat; with `reply` the assistant's turn is open."""
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
    return tokenizer(rendered, add_special_tokens=False).input_ids


def prequery(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template up to where a user would begin, the model's own system prompt included.

    Source: Magpie (arXiv 2406.08464), which lets an aligned model write the query itself.
    """
    mark = "\u241e"
    return tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False).split(mark)[0]


def ask_about(topic: str) -> list[dict]:
    """A chat whose next reply is a question about `topic`."""
    examples = [
        message
        for known, question in EXAMPLES.items()
        for message in (
            {"role": "user", "content": f"Ask one short question about {known}."},
            {"role": "assistant", "content": question},
        )
    ]
    return [*examples, {"role": "user", "content": f"Ask one short question about {topic}."}]


def speak_of(topic: str) -> str:
    """A text whose next line is a sentence about `topic`, for a base model."""
    return "".join(f"{known}:\n{sentence}\n" for known, sentence in SENTENCES.items()) + f"{topic}:\n"


def template_hash(text: str) -> str:
    """Twelve hexadecimal digits that name a prompt template."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], **sampling
) -> list[Text]:
    """What the model writes after each prompt; the ids that all prompts begin with are computed once."""
    from speech_rba.model.generation import ends, generate  # synthesis is pure but for this engine
    from speech_rba.model.language import embed

    eos = tokenizer.eos_token_id
    silent = {eos, *ends(model)}
    shared = common_length(prompts)
    with torch.no_grad():
        prefix, *tails = (embed(model, ids) for ids in [prompts[0][:shared], *(p[shared:] for p in prompts)])
    texts = generate(model, tails, prefix=prefix, eos_token_id=eos, batch_size=len(prompts), **sampling)
    return [
        Text(tokenizer.decode([t for t in ids if t not in silent]).strip(), ids[-1] == eos, len(ids))
        for ids in texts
    ]


def common_length(prompts: list[list[int]]) -> int:
    """How many leading ids all prompts share, at most all but one of the shortest."""
    longest = min(len(p) for p in prompts) - 1
    return next((i for i in range(longest) if len({p[i] for p in prompts}) > 1), longest)
