"""The prompts of the teacher: after them it writes a user's query, a question, a sentence, or an answer."""

import hashlib

from transformers import PreTrainedTokenizerBase

from speech_rba.config import Assets
from speech_rba.model.frame import translation_frame

# Written for this project: they show a small model the form of a question and of a sentence.
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


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict], reply: bool) -> list[int]:
    """The token ids of a chat; with `reply` the assistant's turn is open."""
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
    return tokenizer(rendered, add_special_tokens=False).input_ids


def prequery(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template up to the start of a user's query, the model's default system prompt included.

    Source: Magpie (arXiv 2406.08464): an aligned model writes the query itself.
    """
    mark = "\u241e"
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False)
    return str(rendered).split(mark)[0]


def question_chat(topic: str) -> list[dict]:
    """A chat whose next reply is a question about `topic`."""
    messages = []
    for known, question in EXAMPLES.items():
        messages.append({"role": "user", "content": f"Ask one short question about {known}."})
        messages.append({"role": "assistant", "content": question})
    return [*messages, {"role": "user", "content": f"Ask one short question about {topic}."}]


def sentence_list(topic: str) -> str:
    """A text whose next line is a sentence about `topic`, for a base model."""
    return "".join(f"{known}:\n{sentence}\n" for known, sentence in SENTENCES.items()) + f"{topic}:\n"


def reply_ids(query: str, tokenizer: PreTrainedTokenizerBase, assets: Assets) -> list[int]:
    """The token ids after which the teacher answers `query`, or translates it."""
    if assets.target_language:
        before, after = translation_frame(tokenizer, assets.target_language)
        return [*before, *tokenizer(query, add_special_tokens=False).input_ids, *after]
    system = [{"role": "system", "content": assets.system_prompt}] if assets.system_prompt else []
    return chat_ids(tokenizer, [*system, {"role": "user", "content": query}], reply=True)


def back_translation_ids(translation: str, tokenizer: PreTrainedTokenizerBase, language: str) -> list[int]:
    """The token ids after which the teacher translates `translation` from `language` to English."""
    before, after = translation_frame(tokenizer, language, back=True)
    return [*before, *tokenizer(translation, add_special_tokens=False).input_ids, *after]


def template_hash(text: str) -> str:
    """Twelve hexadecimal digits that name a prompt template."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
