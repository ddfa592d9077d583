"""data/topics.txt, rows.jsonl of synthesize (purpose: asr_adapter) -> artifacts/asr_adapter: an adapter of the audio tower, its card.

It is trained on texts that the teacher wrote for it, by another seed than those of alignment: a student that knows its
training texts by heart hears them better than any other, and finds nothing there to learn from. They are spoken and
degraded anew at each step. That takes longer than a run should, so the result is committed and the stage is frozen in
dvc.yaml; `make asr_adapter` trains it again.
"""

import functools
import json
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import TrainingArguments, set_seed

from speech_rba.alignment.trainer import Log, common, resume
from speech_rba.compute.device import fast_dtype
from speech_rba.config import AsrAdapter, Params
from speech_rba.data.measures import word_error_rate
from speech_rba.model.audio_tower import AudioTower, load_audio_tower, transcribe
from speech_rba.pretraining.asr_adapter import AsrAdapterTrainer, training_order, with_lora
from speech_rba.records import Row, read_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.synthesis import augment
from speech_rba.synthesis.disfluency import hesitant
from speech_rba.synthesis.voices import voices

MAX_CLIP_S = 9
NUM_CHECKED = 96  # held-out texts that the model card's word error rates are from
CHECK_BATCH = 32
VOICES_PER_TEXT = 2  # a text is spoken once by each and kept: speaking takes as long as training


class Speech(Dataset):
    """(clean, degraded, text, rng) of each place of `order`: speech is made once, what degrades it is drawn anew."""

    def __init__(
        self, texts: list[str], order: list[int], allowed: list[str], talkers: list, asr_adapter: AsrAdapter
    ):
        self.texts, self.order, self.allowed, self.talkers, self.asr_adapter = (
            texts,
            order,
            allowed,
            talkers,
            asr_adapter,
        )
        self.spoken = functools.cache(self._spoken)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, str, np.random.Generator]:
        rng = np.random.default_rng([self.asr_adapter.seed, index])
        clean = self.spoken(self.order[index], int(rng.integers(VOICES_PER_TEXT)))
        degraded = augment.augment_for_asr(clean, self.talkers, self.asr_adapter, rng)
        degraded = augment.at_level(degraded, rng.uniform(*self.asr_adapter.level_db))[
            : MAX_CLIP_S * augment.SAMPLE_RATE
        ]
        return clean, degraded, self.texts[self.order[index]], rng

    def _spoken(self, place: int, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.asr_adapter.seed, place, number])
        voice, rate = voices.draw_voice(self.allowed, rng), rng.uniform(*self.asr_adapter.rate)
        pitch, text = rng.uniform(*self.asr_adapter.pitch_semitones), self.texts[place]
        if rng.random() < self.asr_adapter.hesitant_share:  # to be heard as what is meant
            text = hesitant(text, rng)
        speech = voices.say(voice, text, rate, pitch)[: MAX_CLIP_S * augment.SAMPLE_RATE]
        return augment.at_level(speech, float(np.mean(self.asr_adapter.level_db)))


def run(params: Params, data: Path, rows: Path, out: Path) -> None:
    """The adapter in float16, and its model card. A killed run goes on from its last checkpoint.

    Weights between those before and after fine-tuning transcribe what is unlike the training data better than either
    (WiSE-FT, arXiv 2109.01903).
    """
    asr_adapter = params.asr_adapter
    work = workdir("asr_adapter", params, rows / "rows.jsonl", data / "topics.txt")
    tower = load_audio_tower(params.assets.audio_tower, None)
    written = read_jsonl(rows / "rows.jsonl", Row)
    texts = [row.prompt for row in written if row.split == "train"]
    heldout = [row.prompt for row in written if row.split == "test"][:NUM_CHECKED]
    talkers = [voices.talk(*talker) for talker in voices.plan_talkers(params.voice, data)]
    order = training_order(
        [len(text) for text in texts],
        asr_adapter.max_steps,
        asr_adapter.per_device_train_batch_size,
        asr_adapter.seed,
    )
    speech = Speech(texts, order, voices.training_voices(params.voice), talkers, asr_adapter)
    check = Speech(heldout, list(range(len(heldout))), params.voice.heldout_voices, talkers, asr_adapter)
    facts = {"audio_tower": params.assets.audio_tower, "num_texts": len(texts), "num_clips": len(speech)}
    facts |= {"num_checked": len(check), "wer_before": word_error_rates(tower, check)}
    model, log = train(tower, speech, asr_adapter, work)
    model.peft_config[
        "default"
    ].base_model_name_or_path = params.assets.audio_tower  # else this machine's cache
    with publish(out, work) as folder:
        model.save_pretrained(folder)
        weights = load_file(folder / "adapter_model.safetensors")
        kept = {k: w * asr_adapter.weight_interpolation if "lora_B" in k else w for k, w in weights.items()}
        save_file({k: w.to(torch.float16) for k, w in kept.items()}, folder / "adapter_model.safetensors")
        trained = load_audio_tower(params.assets.audio_tower, folder)
        facts |= {"minutes": log.minutes(), "wer_after": word_error_rates(trained, check)}
        (folder / "asr_adapter.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(card(params, facts))
    print(
        "asr_adapter: word error rate of clean and degraded speech {wer_before} before, {wer_after} after".format(
            **facts
        )
    )


def train(tower: AudioTower, speech: Speech, asr_adapter: AsrAdapter, work: Path) -> tuple[PeftModel, Log]:
    set_seed(asr_adapter.seed)
    model, log = with_lora(tower, asr_adapter.lora_r), Log(work / "log.jsonl")
    arguments = common(
        work / "asr_adapter",
        steps=asr_adapter.max_steps,
        seed=asr_adapter.seed,
        save_steps=asr_adapter.save_steps,
    )
    arguments |= {"warmup_steps": asr_adapter.max_steps // 10, "learning_rate": asr_adapter.learning_rate}
    args = TrainingArguments(**arguments, per_device_train_batch_size=asr_adapter.per_device_train_batch_size)
    trainer = AsrAdapterTrainer(model, tower, asr_adapter, args, train_dataset=speech, callbacks=[log])
    resume(trainer, log, "asr_adapter", asr_adapter.max_steps)
    return model, log


def word_error_rates(tower: AudioTower, speech: Speech) -> tuple[float, float]:
    """Of the texts in the held-out voice, clean and degraded."""
    rates = []
    for kind in (0, 1):
        hypotheses = []
        for start in range(0, len(speech), CHECK_BATCH):
            clips = [speech[i][kind] for i in range(start, min(start + CHECK_BATCH, len(speech)))]
            found = transcribe(tower, clips, top_k=1, max_tokens=48, dtype=fast_dtype())
            hypotheses += [tower.text(h.token_ids.tolist()) for h in found]
        rates.append(word_error_rate([speech.texts[place] for place in speech.order], hypotheses))
    return rates[0], rates[1]


def card(params: Params, facts: dict) -> str:
    """The model card: what the asr_adapter were trained on, how, and what they transcribe."""
    asr_adapter, (clean, degraded), (clean_after, degraded_after) = (
        params.asr_adapter,
        facts["wer_before"],
        facts["wer_after"],
    )
    return f"""# AsrAdapter of speech-rba

A LoRA adapter (rank {asr_adapter.lora_r}, float16) of `{facts["audio_tower"]}`, made by `make asr_adapter` \
in {facts["minutes"]:.0f} minutes.

- Data: {facts["num_texts"]} texts that the teacher wrote (seed {asr_adapter.texts.seed}), {facts["num_clips"]} clips; \
no person recorded.
- Voices: every voice of the voice stage but {", ".join(params.voice.validation_voices)}, \
{", ".join(params.voice.heldout_voices)}; at {asr_adapter.rate} times their rate, {asr_adapter.pitch_semitones} semitones.
- Conditions: by chance hesitations, a room (RT60 {asr_adapter.rt60_s} s), white noise, pink noise, hum or babble (SNR \
{asr_adapter.snr_db} dB), a microphone {asr_adapter.drive_db} dB too loud, a telephone; never muffled speech or lost packets.
- SpecAugment: {asr_adapter.mel_masks} masks of up to {asr_adapter.mel_mask_bands} of 80 mel bands, {asr_adapter.time_masks_per_s} a second \
of up to {asr_adapter.time_mask_s} s.
- Loss: cross-entropy of the words, plus {asr_adapter.distance_weight} times the distance from the untouched encoder's states \
of the clean clip.
- Of the change that training made {asr_adapter.weight_interpolation:.0%} is kept.

Word error rate on {facts["num_checked"]} held-out texts in the held-out voices:

| | clean | degraded |
|---|---|---|
| Whisper as it came | {clean:.3f} | {degraded:.3f} |
| with these asr_adapter | {clean_after:.3f} | {degraded_after:.3f} |
"""


if __name__ == "__main__":
    main(run)
