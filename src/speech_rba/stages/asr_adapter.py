"""data/topics.txt, rows.jsonl of synthesize (purpose: asr_adapter) -> artifacts/asr_adapter: a LoRA adapter
of the audio tower and its model card.

Its texts are written for it by the teacher, with another seed than those of alignment: an adapter trained on
the texts of alignment transcribes them better than any other text, which leaves alignment nothing to learn.
Speech is degraded anew at each step. The training takes longer than a nightly run should, so the result is
committed and the stage is frozen in dvc.yaml; `make asr-adapter` trains it again.
"""

import json
from pathlib import Path

import numpy as np

from speech_rba.compute.device import fast_dtype
from speech_rba.config import Params
from speech_rba.data.measures import word_error_rate
from speech_rba.model.audio_tower import AudioTower, load_audio_tower, transcribe
from speech_rba.pretraining.asr_adapter import save_interpolated, train
from speech_rba.pretraining.asr_speech import SpeechPairs, Spoken, training_order
from speech_rba.pretraining.asr_texts import composed, sentences
from speech_rba.pretraining.natural_speech import record_natural
from speech_rba.records import Row, read_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.synthesis.voices import voices

NUM_CHECKED = 96  # held-out texts that the model card's word error rates are from
CHECK_BATCH = 32


def run(params: Params, data: Path, rows: Path, out: Path) -> None:
    """The adapter in float16, and its model card. A killed run resumes from its last checkpoint."""
    settings, audio_tower = params.asr_adapter, params.assets.audio_tower
    work = workdir("asr_adapter", params, rows / "rows.jsonl", data / "topics.txt")
    tower = load_audio_tower(audio_tower, None)
    speech, checks = training_and_heldout_speech(params, texts_of(params, data, rows, work), data, work)
    facts = {"audio_tower": audio_tower, "num_texts": len(speech.spoken.texts), "num_clips": len(speech)}
    facts |= {"num_checked": len(checks["natural"]), "before": check(tower, checks)}
    model, log = train(tower, speech, settings, work)
    with publish(out, work) as folder:
        save_interpolated(model, audio_tower, settings.weight_interpolation, folder)
        adapted = load_audio_tower(audio_tower, folder)
        facts |= {"minutes": log.minutes(), "after": check(adapted, checks)}
        (folder / "asr_adapter.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(card(params, facts))
    print(f"asr_adapter: word error rates {facts['before']} before, {facts['after']} after")


def texts_of(params: Params, data: Path, rows: Path, work: Path) -> dict[str, list[str]]:
    """The texts of training and of the check by split: queries, sentences and composed texts."""
    queries = read_jsonl(rows / "rows.jsonl", Row)
    file = work / "texts.json"
    if not file.exists():
        topics = [topic for topic in (data / "topics.txt").read_text().split("\n") if topic.strip()]
        written = sentences(params, topics)
        written += composed(params.asr_adapter.texts, written)
        file.write_text(json.dumps(written))
    others = json.loads(file.read_text())
    test = [row.prompt for row in queries if row.split == "test"]
    num_checked = NUM_CHECKED // 2
    return {
        "train": [row.prompt for row in queries if row.split == "train"] + others[num_checked:],
        "test": test[:num_checked] + others[:num_checked],
    }


def training_and_heldout_speech(
    params: Params, texts: dict[str, list[str]], data: Path, work: Path
) -> tuple[SpeechPairs, dict[str, SpeechPairs]]:
    """The speech of training, and that of test texts in held-out voices, natural and robotic."""
    settings, voice = params.asr_adapter, params.voice
    talkers = [voices.talk(*talker) for talker in voices.plan_talkers(voice, data)]
    training_voices = voices.of_packages(voices.training_voices(voice))
    heldout_voices = voices.of_packages(voice.heldout_voices)
    rng, share = np.random.default_rng(settings.seed), settings.natural_share
    places = sorted(rng.permutation(len(texts["train"]))[: round(share * len(texts["train"]))].tolist())
    natural_texts = {place: texts["train"][place] for place in places}
    natural = record_natural(natural_texts, training_voices, settings, work / "natural_train")
    training = Spoken(texts["train"], natural, training_voices, talkers)
    lengths, batch_size = [len(text) for text in texts["train"]], settings.per_device_train_batch_size
    order = training_order(lengths, settings.max_steps, batch_size, settings.seed)

    every = dict(enumerate(texts["test"]))
    natural = record_natural(every, heldout_voices, settings, work / "natural_test")
    checks = {
        kind: SpeechPairs(Spoken(texts["test"], files, heldout_voices, talkers), list(every), settings)
        for kind, files in {"natural": natural, "robotic": {}}.items()
    }
    return SpeechPairs(training, order, settings), checks


def check(tower: AudioTower, checks: dict[str, SpeechPairs]) -> dict[str, float]:
    """The word error rate by kind of voice, on clean and on degraded clips."""
    rates = {kind: word_error_rates(tower, speech) for kind, speech in checks.items()}
    return {
        f"{kind}, {state}": rate
        for kind, pair in rates.items()
        for state, rate in zip(("clean", "degraded"), pair, strict=True)
    }


def word_error_rates(tower: AudioTower, speech: SpeechPairs) -> tuple[float, float]:
    """On the clean and on the degraded clips."""
    clean: list[str] = []
    degraded: list[str] = []
    for start in range(0, len(speech), CHECK_BATCH):
        pairs = [speech[place] for place in range(start, min(start + CHECK_BATCH, len(speech)))]
        for hypotheses, clips in (
            (clean, [pair.clean for pair in pairs]),
            (degraded, [pair.degraded for pair in pairs]),
        ):
            batch = transcribe(tower, clips, top_k=1, max_tokens=48, dtype=fast_dtype())
            hypotheses += [tower.text(hypothesis.token_ids.tolist()) for hypothesis in batch]
    return word_error_rate(speech.transcripts, clean), word_error_rate(speech.transcripts, degraded)


def card(params: Params, facts: dict) -> str:
    """The model card: training data, training, and word error rates."""
    settings, voice = params.asr_adapter, params.voice
    held_out = ", ".join(voice.validation_voices + voice.heldout_voices)
    errors = "".join(
        f"| {kind} | {before:.3f} | {facts['after'][kind]:.3f} |\n"
        for kind, before in facts["before"].items()
    )
    return f"""# ASR adapter of speech-rba

A LoRA adapter (rank {settings.lora_r}, float16) of the encoder of `{facts["audio_tower"]}`, made by \
`make asr-adapter` in {facts["minutes"]:.0f} minutes.

- Data: {facts["num_texts"]} texts (queries, statements, stories, orders, talk, numbers, names, words) by \
the teacher (seed {settings.texts.seed}) and composed, {facts["num_clips"]} clips; all speech is synthesized.
- Voices: {settings.natural_share:.0%} of the texts in natural ones (Kokoro and blends of its styles, with \
American, British and foreign accents), the rest in those of the fast engines; none of {held_out}; at \
{settings.rate} times their rate, {settings.pitch_semitones} semitones.
- Conditions, drawn at random: hesitations, a room (RT60 {settings.rt60_s} s), white noise, pink noise, \
hum or babble (SNR {settings.snr_db} dB), an overdriven microphone ({settings.drive_db} dB), the band of a \
device, a telephone line, Opus, MP3 and Vorbis; never muffled speech or lost packets.
- SpecAugment: {settings.mel_masks} masks of up to {settings.mel_mask_bands} of 80 mel bands, \
{settings.time_masks_per_s} a second of up to {settings.time_mask_s} s.
- Loss: cross-entropy of the transcript, plus {settings.distance_weight} times the distance from the \
unadapted encoder's states of the clean clip.
- Weight interpolation: {settings.weight_interpolation:.0%} of the trained update.

Word error rate on {facts["num_checked"]} held-out texts in the held-out voices:

| | unadapted Whisper | with the ASR adapter |
|---|---|---|
{errors}"""


if __name__ == "__main__":
    main(run)
