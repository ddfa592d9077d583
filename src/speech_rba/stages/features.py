"""artifacts/voice, artifacts/base -> artifacts/features: table.jsonl, heard.safetensors, report.json.

The student hears every clip, and what it hears is kept with its alternatives. Whisper as it came judges clean speech
and hears the test for the cascade; what it makes of spoiled training speech nobody asks.
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
    of_interest = [clip for clip in clips if clip.split == "test" or clip.condition == "clean"]
    listeners = {"student": (student.audio_tower, clips)}
    if student.ears:  # else the student hears as the judge does
        listeners["judge"] = (load_audio_tower(params.assets.audio_tower, None), of_interest)
    heard, ms = {}, {}
    for name, (tower, chosen) in listeners.items():
        ears = [student.ears] if name == "student" and student.ears else []
        work = workdir("features", params.assets.audio_tower, params.features, voice / "manifest.jsonl", name, *ears)
        found, ms[name] = hear_all(tower, params, voice, chosen, work, name)
        heard[name] = dict(zip((clip.id for clip in chosen), found, strict=True))
    judged = {clip.id: heard.get("judge", heard["student"])[clip.id] for clip in of_interest}
    text = lambda h: student.audio_tower.text(h.token_ids.tolist())  # noqa: E731
    table = []
    for clip in tqdm(clips, desc="measure", mininterval=2):
        of_judge, confidence = (text(h), h.mean_logprob) if (h := judged.get(clip.id)) else (None, None)
        of_student = text(heard["student"][clip.id])
        table.append(measure(load(voice, clip), clip.transcript, of_judge, of_student, confidence, clip.id))
    report = {"num_clips": len(clips), "minutes": (time.perf_counter() - started) / 60, "ms_per_clip": ms}
    with publish(out) as folder:
        write_jsonl(folder / "table.jsonl", table)
        save_heard(folder / "heard.safetensors", list(heard["student"].values()))
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
