"""artifacts/voice, artifacts/base -> artifacts/features: table.jsonl, heard.safetensors, report.json.

Whisper as it came judges every clip, and its 1-best is what the cascade gets; what the student hears is kept with its
alternatives.
"""

import json
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from speech_rba.data.audio import read_audio
from speech_rba.data.measures import measure
from speech_rba.model.audio_tower import MAX_SECONDS, SAMPLING_RATE, AudioTower, Heard, hear, load_audio_tower
from speech_rba.model.heard import load_heard, save_heard
from speech_rba.model.language import fast_dtype
from speech_rba.model.student import Student
from speech_rba.params import Params
from speech_rba.records import Clip, read_jsonl, write_jsonl
from speech_rba.stages import main, publish, workdir

ROUND = 8  # batches a round; a killed run goes on after the last whole round


def run(params: Params, voice: Path, base: Path, out: Path) -> None:
    """One Feature a clip, in the manifest's order, and what the student heard in it."""
    started = time.perf_counter()
    clips = read_jsonl(voice / "manifest.jsonl", Clip)
    student = Student.from_pretrained(base)
    towers = {"judge": load_audio_tower(params.assets.audio_tower, None), "student": student.audio_tower}
    if not student.ears:
        del towers["student"]  # it is the judge
    heard, ms = {}, {}
    for name, tower in towers.items():
        ears = [student.ears] if name == "student" else []
        work = workdir("features", params.assets.audio_tower, params.features, voice / "manifest.jsonl", *ears)
        heard[name], ms[name] = hear_all(tower, params, voice, clips, work, name)
    judged, heard_by_student = heard["judge"], heard.get("student", heard["judge"])
    texts = [[student.audio_tower.text(h.token_ids.tolist()) for h in found] for found in (judged, heard_by_student)]
    table = [
        measure(load(voice, clip), clip.transcript, text, student_text, h.mean_logprob, clip.id)
        for clip, h, text, student_text in zip(tqdm(clips, desc="measure", mininterval=2), judged, *texts, strict=True)
    ]
    report = {"num_clips": len(clips), "minutes": (time.perf_counter() - started) / 60, "ms_per_clip": ms}
    with publish(out) as folder:
        write_jsonl(folder / "table.jsonl", table)
        save_heard(folder / "heard.safetensors", heard_by_student)
        (folder / "report.json").write_text(json.dumps(report, indent=2))
    print(f"{len(clips)} clips heard, ms a clip: {', '.join(f'{name} {v:.0f}' for name, v in ms.items())}")


def hear_all(
    tower: AudioTower, params: Params, voice: Path, clips: list[Clip], work: Path, name: str
) -> tuple[list[Heard], float]:
    """What the tower hears in each clip, and the milliseconds a clip; rounds that `work` holds are not heard again."""
    order = sorted(range(len(clips)), key=lambda i: (clips[i].duration_s, clips[i].id))  # like lengths, short windows
    found: dict[int, Heard] = {}
    started, fresh = time.perf_counter(), 0
    size = params.features.batch_size * ROUND
    for start in tqdm(range(0, len(order), size), desc=f"hear, {name}", mininterval=2):
        chosen = order[start : start + size]
        path = work / f"{start:06}.safetensors"
        if not path.exists():
            hear_round(tower, params, voice, [clips[i] for i in chosen], path)
            fresh += len(chosen)
        found |= dict(zip(chosen, load_heard(path, list(range(len(chosen)))), strict=True))
    return [found[i] for i in range(len(clips))], 1000 * (time.perf_counter() - started) / max(1, fresh)


def load(voice: Path, clip: Clip) -> np.ndarray:
    """The clip's samples; none if its file cannot be read, which validation then says."""
    try:
        return read_audio(voice / clip.path)
    except ValueError:
        return np.zeros(0, dtype=np.float32)


def hear_round(tower: AudioTower, params: Params, voice: Path, clips: list[Clip], path: Path) -> None:
    """Writes what was heard in `clips` to `path`, whole or not at all. An unreadable clip is heard as nothing."""
    audio = [load(voice, clip)[: MAX_SECONDS * SAMPLING_RATE] for clip in clips]
    audio = [a if len(a) else np.zeros(SAMPLING_RATE // 2, dtype=np.float32) for a in audio]
    found: list[Heard] = []
    for i in range(0, len(audio), params.features.batch_size):
        batch = audio[i : i + params.features.batch_size]
        settings = {"top_k": params.features.top_k, "max_tokens": params.features.max_tokens, "dtype": fast_dtype()}
        found += hear(tower, batch, **settings)
    partial = path.with_suffix(".partial")
    save_heard(partial, found)
    partial.replace(path)


if __name__ == "__main__":
    main(run)
