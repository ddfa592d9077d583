"""The texts that the ASR adapter is trained on beside the queries: people do not only ask.

An adapter trained on queries alone transcribes statements as questions. The teacher writes sentences of four
kinds; what it writes badly, numbers, names and single words, is composed here.
"""

import re

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from speech_rba.config import AsrAdapterTexts, Params
from speech_rba.errors import UserError
from speech_rba.synthesis.filters import NearDuplicates
from speech_rba.synthesis.prompts import chat_ids
from speech_rba.synthesis.teacher import Decoding, Teacher, load_teacher, write

# A request for a text about a topic, and examples that show a small model its form
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "statement": (
        "Write one short statement about {}.",
        {
            "whales": "Whales come up for air every twenty minutes.",
            "coffee": "Most coffee is grown on small farms.",
            "my aunt": "My aunt moved to Leeds last spring.",
            "paper": "There is no paper left in the printer.",
        },
    ),
    "story": (
        "Write one sentence from a story about {}.",
        {
            "whales": "The boat was quiet when the first whale rose beside it.",
            "coffee": "She put down her cup and looked out at the rain.",
            "the old king": "He had waited all night, but nobody came to the gate.",
            "a letter": "They did not open the letter until the morning.",
        },
    ),
    "order": (
        "Write one short order to a person or a device about {}.",
        {
            "lights": "Turn off the lights in the kitchen.",
            "coffee": "Put two more cups of coffee on the table.",
            "music": "Play the next song, and not so loud.",
            "the morning": "Wake me up at half past six tomorrow.",
        },
    ),
    "talk": (
        "Write one thing a friend might say about {}.",
        {
            "whales": "I've never seen one that close, have you?",
            "coffee": "No thanks, I already had two cups today.",
            "football": "Well, we lost again, but it was a good game.",
            "work": "I'm so tired, I think I'll go home early.",
        },
    ),
}
SENTENCE = re.compile(r"[A-Z][A-Za-z ,.'?!-]+[.?!]")
MAX_WORDS, MAX_ROUNDS = 16, 200

DIGITS = "zero one two three four five six seven eight nine"
MONTHS = "January February March April May June July August September October November December"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
FIRST_NAMES = (
    "Anna Ben Carla David Elena Frank Grace Henry Ivan Julia Karim Laura Maria Nina Oscar Paula Rosa Sam "
    "Tom Vera Wei Yusuf Amir Bruno Chloe Dora Emma Felix Gita Hugo Ines Jack Kate Leo Mary Noah Olga Peter"
)
SURNAMES = (
    "Adams Baker Cooper Diaz Evans Fischer Garcia Harris Ito Jones Khan Lopez Miller Novak Owens Patel "
    "Quinn Rossi Smith Taylor Silva Walker Young Zimmermann Brown Chen Dubois Kowalski Murphy Okafor"
)
STREETS = "Oak Park Station Church Mill River King Queen High Bridge Garden Market"
PLACES = "Leeds Boston Dublin Delhi Toronto Sydney London Chicago Lagos Madrid Oslo Berlin"


def sentences(params: Params, topics: list[str]) -> list[str]:
    """`num_sentences` texts by the teacher, of all KINDS in turn, without near duplicates."""
    number_wanted = params.asr_adapter.texts.num_sentences
    duplicates = NearDuplicates(params.synthesize.near_duplicate)
    if not number_wanted:
        return []
    teacher, kept = load_teacher(params.assets), list[str]()
    with tqdm(total=number_wanted, desc="sentences", mininterval=2) as bar:
        for number in range(MAX_ROUNDS):
            kind = list(KINDS)[number % len(KINDS)]
            texts = [t for t in _written(teacher, params, kind, topics, number) if SENTENCE.fullmatch(t)]
            kept += [t for t in texts if len(t.split()) <= MAX_WORDS and not duplicates.add(t)]
            bar.update(min(len(kept), number_wanted) - bar.n)
            if len(kept) >= number_wanted:
                return kept[:number_wanted]
    raise UserError(
        f"the teacher wrote {len(kept)} usable sentences in {MAX_ROUNDS} rounds, asr_adapter.texts asks for "
        f"{number_wanted}: lower num_sentences, or take another teacher"
    )


def _written(teacher: Teacher, params: Params, kind: str, topics: list[str], number: int) -> list[str]:
    """The finished texts of one round."""
    synthesize, rng = params.synthesize, np.random.default_rng([params.asr_adapter.texts.seed, number])
    prompts = [
        _prompt(teacher.tokenizer, kind, str(topic)) for topic in rng.choice(topics, synthesize.batch_size)
    ]
    decoding = Decoding(
        max_new_tokens=synthesize.max_query_tokens,
        temperature=synthesize.temperature,
        top_p=synthesize.top_p,
        seed=number,
        stop_V=teacher.unspeakable_V,
    )
    texts = write(teacher.model, teacher.tokenizer, prompts, decoding)
    return [" ".join(text.content.split()) for text in texts if text.finished]


def _prompt(tokenizer: PreTrainedTokenizerBase, kind: str, topic: str) -> list[int]:
    request, examples = KINDS[kind]
    messages = []
    for known, text in examples.items():
        messages.append({"role": "user", "content": request.format(known)})
        messages.append({"role": "assistant", "content": text})
    return chat_ids(tokenizer, [*messages, {"role": "user", "content": request.format(topic)}], reply=True)


def composed(settings: AsrAdapterTexts, known: list[str]) -> list[str]:
    """`num_composed` short texts: digits, numbers, times, dates, names, addresses, and words of the `known`
    texts."""
    rng = np.random.default_rng([settings.seed, 1])
    words = sorted({word for text in known for word in re.findall(r"[a-z]{3,}", text)})
    return [COMPOSERS[i % len(COMPOSERS)](rng, words) for i in range(settings.num_composed)]


def _one(rng: np.random.Generator, words: str) -> str:
    return str(rng.choice(words.split()))


def _digit(rng: np.random.Generator, _words: list[str]) -> str:
    return f"{_one(rng, DIGITS).capitalize()}."


def _digits(rng: np.random.Generator, _words: list[str]) -> str:
    return ", ".join(rng.choice(DIGITS.split(), rng.integers(2, 8))).capitalize() + "."


def _number(rng: np.random.Generator, words: list[str]) -> str:
    number = int(10 ** rng.uniform(1, 4))
    return str(rng.choice([f"{number}.", f"It costs {number} dollars.", f"{number} {rng.choice(words)}."]))


def _time(rng: np.random.Generator, _words: list[str]) -> str:
    clock = f"{rng.integers(1, 13)}:{rng.integers(0, 12) * 5:02}"
    return f"{rng.choice(['At', 'It is', 'The train leaves at', 'Come back at'])} {clock}."


def _date(rng: np.random.Generator, _words: list[str]) -> str:
    date = f"{_one(rng, MONTHS)} {rng.integers(1, 29)}"
    texts = [f"{date}, {rng.integers(1900, 2030)}.", f"On {_one(rng, DAYS)}, {date}.", f"Until {date}."]
    return str(rng.choice(texts))


def _name(rng: np.random.Generator, _words: list[str]) -> str:
    name = f"{_one(rng, FIRST_NAMES)} {_one(rng, SURNAMES)}"
    texts = ["{}.", "My name is {}.", "This is {} speaking.", "Call {} back.", "I would like to see {}."]
    return str(rng.choice(texts)).format(name)


def _address(rng: np.random.Generator, _words: list[str]) -> str:
    street = f"{rng.integers(1, 200)} {_one(rng, STREETS)} Street"
    return str(rng.choice([f"{street}, {_one(rng, PLACES)}.", f"We live at {street}.", f"Go to {street}."]))


def _words(rng: np.random.Generator, words: list[str]) -> str:
    return " ".join(rng.choice(words, rng.integers(1, 3), replace=False)).capitalize() + "."


def _reply(rng: np.random.Generator, words: list[str]) -> str:
    texts = ["Yes.", "No.", "Stop.", "Go on.", "Hello.", "Thank you.", "Yes, please.", "No, thanks.", "Next."]
    return str(rng.choice([*texts, f"Not {rng.choice(words)}.", f"The {rng.choice(words)}."]))


COMPOSERS = (_digit, _digits, _number, _words, _time, _name, _words, _date, _address, _reply)
