"""A page to listen to: `make voices` writes work/voices.html, with one sentence in each voice and condition.

Each clip has the hypothesis of the unadapted Whisper. Kokoro's blends are a selection: those of training are
many. An endpoint of params.yaml speaks too, so its server must be up (docs/voices.md).
"""

import base64
import io
import sys
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from speech_rba.compute.pool import process_pool
from speech_rba.config import Assets, Voice, load_params
from speech_rba.errors import UserError
from speech_rba.records import Clip, Condition
from speech_rba.synthesis import augment
from speech_rba.synthesis.conditions import CONDITIONS
from speech_rba.synthesis.plan_clips import Setting, draw_clip, draw_speech
from speech_rba.synthesis.record_clips import in_condition
from speech_rba.synthesis.voices import voices

SENTENCE = "The train to the old harbour leaves at twenty past seven, so please take your umbrella."
CONDITION_VOICE = "kokoro-jf_alpha"
NUM_TRAINING_BLENDS = 12
LEVEL_DB = -20.0
BATCH, MAX_TOKENS = 16, 48
TITLES = {
    "kokoro": "Kokoro: five styles and a selection of their blends",
    "hibari": "hibari",
    "piper": "Piper",
    "endpoint": "Speech endpoint",
    "espeak": "espeak-ng",
}


def shown_voices(voice: Voice) -> list[str]:
    """All voices in the order of TITLES, but of the blends for training only the first."""
    training = [name for name in voices.training_voices(voice) if name.startswith("kokoro-blend")]
    left_out = {*training[NUM_TRAINING_BLENDS:]}
    shown = [name for name in voices.speakers(voice) if name not in left_out]
    return sorted(shown, key=lambda name: list(TITLES).index(name.partition("-")[0]))


def plan(voice: Voice, names: list[str], conditions: list[Condition]) -> list[Clip]:
    """SENTENCE in each voice, clean, and in CONDITION_VOICE in each condition, at the usual rate."""
    plain = {"rate": [1.0, 1.0], "pitch_semitones": [0.0, 0.0], "level_db": [LEVEL_DB, LEVEL_DB]}
    voice = voice.model_copy(update=plain)
    pairs: list[tuple[str, Condition]] = [(name, "clean") for name in names]
    pairs += [(CONDITION_VOICE, condition) for condition in conditions if condition != "clean"]
    clips = []
    for number, (name, condition) in enumerate(pairs):
        speech = draw_speech(voice, f"page-{number}", [name], "page", "page", "test", SENTENCE, Setting())
        clips.append(draw_clip(voice, f"page-{number}", condition, speech))
    return clips


def record(clip: Clip, talkers: list[tuple[str, str]]) -> np.ndarray:
    """The audio of a planned clip, float32 `(N,)` at 16 kHz."""
    return in_condition(voices.say(clip.voice, clip.spoken, clip.rate, clip.pitch_semitones), clip, talkers)


def hypotheses(assets: Assets, audio: list[np.ndarray]) -> list[str]:
    """What the unadapted Whisper transcribes of each clip."""
    from speech_rba.compute.device import fast_dtype  # here: the processes that speak do without torch
    from speech_rba.model.audio_tower import load_audio_tower, transcribe

    tower, texts = load_audio_tower(assets.audio_tower, None), []
    for start in tqdm(range(0, len(audio), BATCH), desc="transcribe"):
        batch = transcribe(
            tower, audio[start : start + BATCH], top_k=1, max_tokens=MAX_TOKENS, dtype=fast_dtype()
        )
        texts += [tower.text(hypothesis.token_ids.tolist()) for hypothesis in batch]
    return texts


def render(voice: Voice, clips: list[Clip], audio: list[np.ndarray], texts: list[str]) -> str:
    """The page as HTML; it loads nothing from outside."""
    from speech_rba.data.measures import word_error_rate
    from speech_rba.report.examples import word_diff
    from speech_rba.report.page import environment

    speakers = voices.speakers(voice)
    sections: dict[str, list[dict]] = {title: [] for title in (*TITLES.values(), "Conditions")}
    for clip, samples, text in zip(clips, audio, texts, strict=True):
        degraded = clip.condition != "clean"
        use = "validation only" if clip.voice in voice.validation_voices else "test only"
        title = "Conditions" if degraded else TITLES[clip.engine]
        speaker = speakers[clip.voice]
        sections[title].append(
            {
                "name": clip.condition.replace("_", " ") if degraded else clip.voice,
                "chips": [clip.strength_text] if degraded else [speaker.gender, speaker.accent],
                "use": use if clip.heldout_voice else "",
                "audio": audio_url(samples),
                "words": word_diff(clip.transcript, text)[1],
                "wer": word_error_rate([clip.transcript], [text]),
            }
        )
    template = environment().from_string(Path(__file__).with_name("voices.html.j2").read_text())
    shown = {title: samples for title, samples in sections.items() if samples}
    return template.render(sections=shown, sentence=SENTENCE, condition_voice=CONDITION_VOICE)


def audio_url(samples: np.ndarray) -> str:
    """16-bit FLAC as a data URL: the page needs no other file."""
    file = io.BytesIO()
    soundfile.write(file, samples, augment.SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(file.getvalue()).decode()}"


def main(out: Path) -> None:
    """`out` holds the page."""
    params = load_params()
    talkers = voices.plan_talkers(params.voice, Path("data"))
    clips = plan(params.voice, shown_voices(params.voice), list(CONDITIONS))
    with process_pool() as map_rows:
        audio = list(tqdm(map_rows(partial(record, talkers=talkers), clips), total=len(clips), desc="speak"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(params.voice, clips, audio, hypotheses(params.assets, audio)))
    print(f"{out}: {len(clips)} clips, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {error}")
