"""The teacher LLM: its weights, its tokenizer, and the texts that it writes after prompts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from speech_rba.compute.device import fast_dtype
from speech_rba.config import Assets
from speech_rba.model.embedder import load_embedder
from speech_rba.model.frame import end_with_the_line
from speech_rba.model.generation import ends, generate
from speech_rba.model.language import embed, load_language_model, load_tokenizer
from speech_rba.synthesis.filters import SPEAKABLE

GREEDY_BATCH = 64  # prompts answered together; greedy answers in float32 do not depend on it


@dataclass(frozen=True)
class Text:
    """A text that a model wrote."""

    content: str
    finished: bool  # the model ended it, not the token limit
    num_tokens: int


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn: temperature 0 is greedy. A token that `stop_V` (V,) marks ends the text."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop_V: torch.Tensor | None = None


@dataclass(frozen=True)
class Teacher:
    """The teacher's weights twice, its tokenizer, and an embedder where it translates."""

    model: PreTrainedModel
    exact: PreTrainedModel  # float32: in bfloat16 a greedy answer depends on its batch
    tokenizer: PreTrainedTokenizerBase
    unspeakable_V: torch.Tensor  # bool: the tokens that no spoken text holds
    embed: Callable[[list[str]], torch.Tensor] | None  # to compare two sentences by meaning


def load_teacher(assets: Assets) -> Teacher:
    """The teacher that `assets` names."""
    name = assets.teacher
    model, tokenizer = load_language_model(name, fast_dtype()), load_tokenizer(name)
    if assets.target_language:
        end_with_the_line(tokenizer)
    exact = model if model.dtype == torch.float32 else load_language_model(name, torch.float32)
    unspeakable = torch.ones(model.config.vocab_size, dtype=torch.bool)
    for i in range(len(tokenizer)):
        unspeakable[i] = not SPEAKABLE.fullmatch(str(tokenizer.decode([i])))
    embedder = load_embedder(assets.embedder) if assets.target_language else None
    return Teacher(model, exact, tokenizer, unspeakable, embedder)


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    decoding: Decoding,
) -> list[Text]:
    """The model's text after each prompt, sampled in one batch; the ids that all prompts begin with are
    computed once."""
    if not prompts:
        return []
    eos = tokenizer.eos_token_id
    ends_of_text = {eos, *ends(model)}
    shared = common_length(prompts)
    with torch.no_grad():
        prefix = embed(model, prompts[0][:shared])
        tails = [embed(model, prompt[shared:]) for prompt in prompts]
    rows = generate(
        model,
        tails,
        prefix=prefix,
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        eos_token_id=eos,
        seed=decoding.seed,
        batch_size=GREEDY_BATCH if decoding.temperature == 0 else len(prompts),
        stop_V=decoding.stop_V,
    )
    kept = [[token for token in row if token not in ends_of_text] for row in rows]
    texts = [str(tokenizer.decode(tokens)).strip() for tokens in kept]
    return [Text(text, row[-1] == eos, len(row)) for text, row in zip(texts, rows, strict=True)]


def common_length(prompts: list[list[int]]) -> int:
    """How many leading ids all prompts share, at most all but one of the shortest."""
    longest = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(longest) if len({prompt[i] for prompt in prompts}) > 1), longest)
