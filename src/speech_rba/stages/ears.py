"""data/topics.txt, rows.jsonl of synthesize (purpose: ears) -> artifacts/ears: an adapter of the audio tower, its card.

It is trained on texts that the teacher wrote for it, by another seed than those of alignment: a student that knows its
training texts by heart hears them better than any other, and finds nothing there to learn from. They are spoken and
spoiled anew at each step. That takes longer than a run should, so the result is committed and the stage is frozen in
dvc.yaml; `make ears` trains it again.
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

from speech_rba.data.measures import word_error_rate
from speech_rba.model.audio_tower import AudioTower, hear, load_audio_tower
from speech_rba.model.language import fast_dtype
from speech_rba.params import Ears, Params
from speech_rba.records import Row, read_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.synthesis import augment, voices
from speech_rba.synthesis.hesitation import hesitant
from speech_rba.training.ears import EarsTrainer, training_order, with_lora
from speech_rba.training.loop import Log, common, resume

MAX_CLIP_S = 9
NUM_CHECKED = 96  # held-out texts that the model card's word error rates are from
CHECK_BATCH = 32
VOICES_PER_TEXT = 2  # a text is spoken once by each and kept: speaking takes as long as training


class Speech(Dataset):
    """(clean, spoiled, text, rng) of each place of `order`: speech is made once, what spoils it is drawn anew."""

    def __init__(self, texts: list[str], order: list[int], allowed: list[str], talkers: list, ears: Ears):
        self.texts, self.order, self.allowed, self.talkers, self.ears = texts, order, allowed, talkers, ears
        self.spoken = functools.cache(self._spoken)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, str, np.random.Generator]:
        rng = np.random.default_rng([self.ears.seed, index])
        clean = self.spoken(self.order[index], int(rng.integers(VOICES_PER_TEXT)))
        spoiled = augment.in_the_wild(clean, self.talkers, self.ears, rng)
        spoiled = augment.at_level(spoiled, rng.uniform(*self.ears.level_db))[: MAX_CLIP_S * augment.SAMPLE_RATE]
        return clean, spoiled, self.texts[self.order[index]], rng

    def _spoken(self, place: int, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.ears.seed, place, number])
        voice, rate = voices.draw_voice(self.allowed, rng), rng.uniform(*self.ears.rate)
        pitch, text = rng.uniform(*self.ears.pitch_semitones), self.texts[place]
        if rng.random() < self.ears.hesitant_share:  # to be heard as what is meant
            text = hesitant(text, rng)
        speech = voices.say(voice, text, rate, pitch)[: MAX_CLIP_S * augment.SAMPLE_RATE]
        return augment.at_level(speech, float(np.mean(self.ears.level_db)))


def run(params: Params, data: Path, rows: Path, out: Path) -> None:
    """The adapter in float16, and its model card. A killed run goes on from its last checkpoint.

    Weights between those before and after fine-tuning hear what is unlike the training data better than either
    (WiSE-FT, arXiv 2109.01903).
    """
    ears = params.ears
    work = workdir("ears", params, rows / "rows.jsonl", data / "topics.txt")
    tower = load_audio_tower(params.assets.audio_tower, None)
    written = read_jsonl(rows / "rows.jsonl", Row)
    texts = [row.prompt for row in written if row.split == "train"]
    heldout = [row.prompt for row in written if row.split == "test"][:NUM_CHECKED]
    talkers = [voices.talk(*talker) for talker in voices.plan_talkers(params.voice, data)]
    order = training_order([len(text) for text in texts], ears.max_steps, ears.per_device_train_batch_size, ears.seed)
    speech = Speech(texts, order, voices.training_voices(params.voice), talkers, ears)
    check = Speech(heldout, list(range(len(heldout))), params.voice.heldout_voices, talkers, ears)
    facts = {"audio_tower": params.assets.audio_tower, "num_texts": len(texts), "num_clips": len(speech)}
    facts |= {"num_checked": len(check), "wer_before": word_error_rates(tower, check)}
    model, log = train(tower, speech, ears, work)
    model.peft_config["default"].base_model_name_or_path = params.assets.audio_tower  # else this machine's cache
    with publish(out, work) as folder:
        model.save_pretrained(folder)
        weights = load_file(folder / "adapter_model.safetensors")
        kept = {k: w * ears.kept_share if "lora_B" in k else w for k, w in weights.items()}
        save_file({k: w.to(torch.float16) for k, w in kept.items()}, folder / "adapter_model.safetensors")
        trained = load_audio_tower(params.assets.audio_tower, folder)
        facts |= {"minutes": log.minutes(), "wer_after": word_error_rates(trained, check)}
        (folder / "ears.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(card(params, facts))
    print("ears: word error rate of clean and spoiled speech {wer_before} before, {wer_after} after".format(**facts))


def train(tower: AudioTower, speech: Speech, ears: Ears, work: Path) -> tuple[PeftModel, Log]:
    set_seed(ears.seed)
    model, log = with_lora(tower, ears.lora_r), Log(work / "log.jsonl")
    arguments = common(work / "ears", steps=ears.max_steps, seed=ears.seed, save_steps=ears.save_steps)
    arguments |= {"warmup_steps": ears.max_steps // 10, "learning_rate": ears.learning_rate}
    args = TrainingArguments(**arguments, per_device_train_batch_size=ears.per_device_train_batch_size)
    trainer = EarsTrainer(model, tower, ears, args, train_dataset=speech, callbacks=[log])
    resume(trainer, log, "ears", ears.max_steps)
    return model, log


def word_error_rates(tower: AudioTower, speech: Speech) -> tuple[float, float]:
    """Of the texts in the held-out voice, clean and spoiled."""
    rates = []
    for kind in (0, 1):
        heard = []
        for start in range(0, len(speech), CHECK_BATCH):
            clips = [speech[i][kind] for i in range(start, min(start + CHECK_BATCH, len(speech)))]
            found = hear(tower, clips, top_k=1, max_tokens=48, dtype=fast_dtype())
            heard += [tower.text(h.token_ids.tolist()) for h in found]
        rates.append(word_error_rate([speech.texts[place] for place in speech.order], heard))
    return rates[0], rates[1]


def card(params: Params, facts: dict) -> str:
    """The model card: what the ears were trained on, how, and what they hear."""
    ears, (clean, spoiled), (clean_after, spoiled_after) = params.ears, facts["wer_before"], facts["wer_after"]
    return f"""# Ears of speech-rba

A LoRA adapter (rank {ears.lora_r}, float16) of `{facts["audio_tower"]}`, made by `make ears` \
in {facts["minutes"]:.0f} minutes.

- Data: {facts["num_texts"]} texts that the teacher wrote (seed {ears.texts.seed}), {facts["num_clips"]} clips; \
no person recorded.
- Voices: every voice of the voice stage but {", ".join(params.voice.validation_voices)}, \
{", ".join(params.voice.heldout_voices)}; at {ears.rate} times their rate, {ears.pitch_semitones} semitones.
- Conditions: by chance hesitations, a room (RT60 {ears.rt60_s} s), white noise, pink noise, hum or babble (SNR \
{ears.snr_db} dB), a microphone {ears.drive_db} dB too loud, a telephone; never muffled speech or lost packets.
- SpecAugment: {ears.mel_masks} masks of up to {ears.mel_mask_bands} of 80 mel bands, {ears.time_masks_per_s} a second \
of up to {ears.time_mask_s} s.
- Loss: cross-entropy of the words, plus {ears.distance_weight} times the distance from the untouched encoder's states \
of the clean clip.
- Of the change that training made {ears.kept_share:.0%} is kept.

Word error rate on {facts["num_checked"]} held-out texts in the held-out voices:

| | clean | spoiled |
|---|---|---|
| Whisper as it came | {clean:.3f} | {spoiled:.3f} |
| with these ears | {clean_after:.3f} | {spoiled_after:.3f} |
"""


if __name__ == "__main__":
    main(run)
