"""artifacts/voice or suites/NAME, artifacts/base -> features or suite_features/NAME: table.jsonl, hypotheses.safetensors.

The student hears every clip, and what it hears is kept with its alternatives. Whisper as it came judges clean speech
and hears the test for the cascade; what it makes of degraded training speech nobody asks.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from speech_rba.compute.device import fast_dtype
from speech_rba.config import Params
from speech_rba.data.audio import read_audio
from speech_rba.data.measures import measure
from speech_rba.errors import UserError
from speech_rba.model.audio_tower import MAX_SECONDS, SAMPLING_RATE, Hypothesis, load_audio_tower, transcribe
from speech_rba.model.hypotheses import load_hypotheses, save_hypotheses
from speech_rba.model.students import load_student
from speech_rba.records import Clip, read_jsonl, write_jsonl
from speech_rba.stages import main, publish, workdir

BATCH = 32
ROUND = 8  # batches a round; a killed run goes on after the last whole round


def run(params: Params, voice: Path, base: Path, out: Path) -> None:
    """One Feature a clip, in the manifest's order, and what the student heard in it."""
    started = time.perf_counter()
    clips = read_jsonl(voice / "manifest.jsonl", Clip)
    student, judge = load_student(base), load_audio_tower(params.assets.audio_tower, None)
    of_interest = [clip for clip in clips if clip.split != "train" or clip.condition == "clean"]
    work = workdir("features", params, voice, base)
    limit = {"max_tokens": student.config.max_transcript_tokens}
    listeners = {"student": (partial(student.transcribe, top_k=student.config.soft_top_k, **limit), clips)}
    if not student.transcribes_as_judge:
        listeners["judge"] = (partial(transcribe, judge, top_k=1, **limit), of_interest)
    hypotheses, ms = {}, {}
    for name, (encode_audio, chosen) in listeners.items():
        found, ms[name] = transcribe_all(encode_audio, voice, chosen, work, name)
        hypotheses[name] = dict(zip((clip.id for clip in chosen), found, strict=True))
    judged = {clip.id: hypotheses.get("judge", hypotheses["student"])[clip.id] for clip in of_interest}
    table = []
    for clip in tqdm(clips, desc="measure", mininterval=2):
        h = judged.get(clip.id)
        of_judge, confidence = (judge.text(h.token_ids.tolist()), h.mean_logprob) if h else (None, None)
        of_student = student.transcript(hypotheses["student"][clip.id])
        table.append(measure(load(voice, clip), clip.transcript, of_judge, of_student, confidence, clip.id))
    report = {"num_clips": len(clips), "minutes": (time.perf_counter() - started) / 60, "ms_per_clip": ms}
    with publish(out, work) as folder:
        write_jsonl(folder / "table.jsonl", table)
        save_hypotheses(folder / "hypotheses.safetensors", list(hypotheses["student"].values()))
        (folder / "report.json").write_text(json.dumps(report, indent=2))
    print(
        f"{len(clips)} clips transcribed, ms a clip: {', '.join(f'{name} {v:.0f}' for name, v in ms.items())}"
    )


def transcribe_all(
    encode_audio: Callable[..., list[Hypothesis]], voice: Path, clips: list[Clip], work: Path, name: str
) -> tuple[list[Hypothesis], float]:
    """What `encode_audio` hears in each clip, and the milliseconds a clip; rounds that `work` holds are not heard again.

    Held-out clips are heard as the served student hears, in float32; training clips in the fast dtype.
    """
    found: dict[int, Hypothesis] = {}
    started, fresh = time.perf_counter(), 0
    for precision, dtype in (("exact", torch.float32), ("fast", fast_dtype())):
        chosen = [i for i, clip in enumerate(clips) if (clip.split == "train") == (precision == "fast")]
        chosen.sort(key=lambda i: (clips[i].duration_s, clips[i].id))  # like lengths, short windows
        for start in tqdm(
            range(0, len(chosen), BATCH * ROUND), desc=f"transcribe, {name}, {precision}", mininterval=2
        ):
            places = chosen[start : start + BATCH * ROUND]
            path = work / f"{name}-{precision}-{start:06}.safetensors"
            if not path.exists():
                transcribe_round(partial(encode_audio, dtype=dtype), voice, [clips[i] for i in places], path)
                fresh += len(places)
            found |= dict(zip(places, load_hypotheses(path, list(range(len(places)))), strict=True))
    return [found[i] for i in range(len(clips))], 1000 * (time.perf_counter() - started) / max(1, fresh)


def load(voice: Path, clip: Clip) -> np.ndarray:
    """The clip's samples; none if its file cannot be read, which validation then says."""
    try:
        return read_audio(voice / clip.path)
    except UserError:
        return np.zeros(0, dtype=np.float32)


def transcribe_round(
    encode_audio: Callable[..., list[Hypothesis]], voice: Path, clips: list[Clip], path: Path
) -> None:
    """Writes what was heard in `clips` to `path`, whole or not at all. An unreadable clip is heard as nothing."""
    audio = [load(voice, clip)[: MAX_SECONDS * SAMPLING_RATE] for clip in clips]
    audio = [a if len(a) else np.zeros(SAMPLING_RATE // 2, dtype=np.float32) for a in audio]
    found = [h for i in range(0, len(audio), BATCH) for h in encode_audio(audio[i : i + BATCH])]
    partial_file = path.with_suffix(".partial")
    save_hypotheses(partial_file, found)
    partial_file.replace(path)


if __name__ == "__main__":
    main(run)
