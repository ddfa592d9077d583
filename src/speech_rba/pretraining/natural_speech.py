"""Texts of the ASR adapter's training in natural voices, kept on disk: to synthesize one takes longer than
to train on it."""

from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speech_rba.compute.pool import process_pool
from speech_rba.config import AsrAdapter
from speech_rba.data.flac import write_flac
from speech_rba.synthesis import augment
from speech_rba.synthesis.disfluency import hesitant
from speech_rba.synthesis.voices import voices

NATURAL_ENGINE = "kokoro"


def record_natural(
    texts: dict[int, str], allowed: list[str], settings: AsrAdapter, folder: Path
) -> dict[int, Path]:
    """The file of each text by its number, in one of the `allowed` voices of NATURAL_ENGINE; one that is in
    `folder` already is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in allowed if name.startswith(f"{NATURAL_ENGINE}-")]
    record = partial(_record, names=names, settings=settings, folder=folder)
    with process_pool() as map_rows:
        files = map_rows(record, list(texts.items()))
        bar = tqdm(files, total=len(texts), desc="natural voices", unit="text", mininterval=2)
        return dict(zip(texts, bar, strict=True))


def _record(item: tuple[int, str], names: list[str], settings: AsrAdapter, folder: Path) -> Path:
    place, text = item
    file = folder / f"{place:05}.flac"
    if not file.exists():
        rng = np.random.default_rng([settings.seed, 2, place])
        speech = speak(text, str(rng.choice(names)), settings, rng)
        write_flac(file, speech)
    return file


def speak(text: str, voice: str, settings: AsrAdapter, rng: np.random.Generator) -> np.ndarray:
    """`text` in `voice` at a random rate and pitch, in some clips with hesitations, which its transcript
    lacks."""
    rate, pitch = (
        augment.draw_between(settings.rate, rng),
        augment.draw_between(settings.pitch_semitones, rng),
    )
    if rng.random() < settings.hesitant_share:
        text = hesitant(text, rng)
    return augment.at_level(voices.say(voice, text, rate, pitch), float(np.mean(settings.level_db)))
