"""Seconds until `speech-rba talk` is loaded and until it has answered: `python benchmarks/talk.py FILE`.

Each trial is a fresh process, as for a person who asks one question. Processor time stands beside the
seconds, since other processes of the machine lengthen these.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.tables import write_result

NUM_TRIALS = 7
MEASURES = ("load_s", "load_cpu_s", "answer_s", "answer_cpu_s")


def trial(file: Path) -> dict[str, float]:
    """The times of this process, whose student is loaded here."""
    from speech_rba.cli import student_folders
    from speech_rba.data.audio import read_audio

    clip, (base, adapter) = read_audio(file), student_folders(None)
    times = [(time.perf_counter(), time.process_time())]
    from speech_rba.model.light_import import import_transformers

    import_transformers()
    from speech_rba.model.answering import load_answerer

    answer = load_answerer(base, adapter)
    times.append((time.perf_counter(), time.process_time()))
    answer([clip])
    times.append((time.perf_counter(), time.process_time()))
    steps = zip(times[1:], times[:-1], strict=True)
    values = [after - before for step in steps for after, before in zip(*step, strict=True)]
    return dict(zip(MEASURES, values, strict=True))


def main() -> None:
    file = Path(sys.argv[1])
    if sys.argv[2:] == ["--one"]:
        print(json.dumps(trial(file)))
        return
    command = [sys.executable, __file__, str(file), "--one"]
    subprocess.run(command, check=True, capture_output=True)  # the first reads the files from the disk
    trials = []
    for _ in range(NUM_TRIALS):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        trials.append(json.loads(done.stdout))
        print(trials[-1], flush=True)
    header = {
        "command": f"python benchmarks/talk.py {file.name}",
        "commit": git("rev-parse", "--short", "HEAD"),
        "machine": f"{os.cpu_count()} cores",
        "minutes": None,
        "seeds": None,
    }
    write_result(
        Path("results/talk_latency.json"), header, [row(m, [t[m] for t in trials]) for m in MEASURES]
    )


def row(measure: str, values: list[float]) -> dict:
    """The median, the least and the most of a measure's values."""
    ends = {"low": round(min(values), 2), "high": round(max(values), 2), "n": len(values)}
    place = {"system": "talk", "versus": None, "suite": None, "condition": "fresh process"}
    median = round(statistics.median(values), 2)
    return {"table": "talk_latency", **place, "metric": measure, "value": median, **ends}


def git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], text=True).strip()


if __name__ == "__main__":
    main()
