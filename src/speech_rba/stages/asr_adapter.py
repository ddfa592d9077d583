"""data/topics.txt, rows.jsonl of synthesize (purpose: asr_adapter) -> artifacts/asr_adapter: a LoRA adapter
of the audio tower and its model card.

Its texts are written for it by the teacher, with another seed than those of alignment: an adapter trained on
the texts of alignment transcribes them better than any other text, which leaves alignment nothing to learn.
Speech is degraded anew at each step. The training takes longer than a nightly run should, so the result is
committed and the stage is frozen in dvc.yaml; `make asr-adapter` trains it again.
"""

import json
from pathlib import Path

from speech_rba.compute.device import fast_dtype
from speech_rba.config import Params
from speech_rba.data.measures import word_error_rate
from speech_rba.model.audio_tower import AudioTower, load_audio_tower, transcribe
from speech_rba.pretraining.asr_adapter import save_interpolated, train
from speech_rba.pretraining.asr_speech import SpeechPairs, training_order
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
    speech, heldout = training_and_heldout_speech(params, data, rows)
    facts = {"audio_tower": audio_tower, "num_texts": len(speech.texts), "num_clips": len(speech)}
    facts |= {"num_checked": len(heldout), "wer_before": word_error_rates(tower, heldout)}
    model, log = train(tower, speech, settings, work)
    with publish(out, work) as folder:
        save_interpolated(model, audio_tower, settings.weight_interpolation, folder)
        adapted = load_audio_tower(audio_tower, folder)
        facts |= {"minutes": log.minutes(), "wer_after": word_error_rates(adapted, heldout)}
        (folder / "asr_adapter.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(card(params, facts))
    before, after = facts["wer_before"], facts["wer_after"]
    print(f"asr_adapter: word error rate of clean and degraded speech {before} before, {after} after")


def training_and_heldout_speech(params: Params, data: Path, rows: Path) -> tuple[SpeechPairs, SpeechPairs]:
    """The speech of training, and that of test texts in held-out voices."""
    settings, written = params.asr_adapter, read_jsonl(rows / "rows.jsonl", Row)
    texts = [row.prompt for row in written if row.split == "train"]
    heldout = [row.prompt for row in written if row.split == "test"][:NUM_CHECKED]
    talkers = [voices.talk(*talker) for talker in voices.plan_talkers(params.voice, data)]
    lengths, batch_size = [len(text) for text in texts], settings.per_device_train_batch_size
    order = training_order(lengths, settings.max_steps, batch_size, settings.seed)
    training_voices, heldout_voices = voices.training_voices(params.voice), params.voice.heldout_voices
    return (
        SpeechPairs(texts, order, training_voices, talkers, settings),
        SpeechPairs(heldout, list(range(len(heldout))), heldout_voices, talkers, settings),
    )


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
    clean_before, degraded_before = facts["wer_before"]
    clean_after, degraded_after = facts["wer_after"]
    return f"""# ASR adapter of speech-rba

A LoRA adapter (rank {settings.lora_r}, float16) of `{facts["audio_tower"]}`, made by `make asr-adapter` in \
{facts["minutes"]:.0f} minutes.

- Data: {facts["num_texts"]} texts by the teacher (seed {settings.texts.seed}), {facts["num_clips"]} clips; \
all speech is synthesized.
- Voices: every voice of the voice stage but {", ".join(voice.validation_voices + voice.heldout_voices)}; at \
{settings.rate} times their rate, {settings.pitch_semitones} semitones.
- Conditions, drawn at random: hesitations, a room (RT60 {settings.rt60_s} s), white noise, pink noise, \
hum or babble (SNR {settings.snr_db} dB), an overdriven microphone ({settings.drive_db} dB), a telephone \
line; never muffled speech or lost packets.
- SpecAugment: {settings.mel_masks} masks of up to {settings.mel_mask_bands} of 80 mel bands, \
{settings.time_masks_per_s} a second of up to {settings.time_mask_s} s.
- Loss: cross-entropy of the transcript, plus {settings.distance_weight} times the distance from the \
unadapted encoder's states of the clean clip.
- Weight interpolation: {settings.weight_interpolation:.0%} of the trained update.

Word error rate on {facts["num_checked"]} held-out texts in the held-out voices:

| | clean | degraded |
|---|---|---|
| unadapted Whisper | {clean_before:.3f} | {degraded_before:.3f} |
| with the ASR adapter | {clean_after:.3f} | {degraded_after:.3f} |
"""


if __name__ == "__main__":
    main(run)
