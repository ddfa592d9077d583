"""A folder of questions or recordings -> artifacts/suites/NAME, which has the same files for every suite.

questions.jsonl; manifest.jsonl and clips/, a clip for each condition of each question; refused.jsonl, the
rows that cannot be scored; report.json. Written questions are voiced, for validation or the test; recordings
are for the test alone, unchanged and in the conditions whose turn it is.
"""

import json
import time
from collections import Counter
from pathlib import Path

from speech_rba.config import Params
from speech_rba.records import write_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.suites.read import read_suite
from speech_rba.synthesis.degrade_recordings import degrade_recordings
from speech_rba.synthesis.plan_clips import plan_questions
from speech_rba.synthesis.record_clips import record_all, write_clips
from speech_rba.synthesis.voices.voices import plan_talkers, training_voices


def run(params: Params, name: str, folder: Path, data: Path, out: Path) -> None:
    """Every question of the suite `name` in `folder` that can be scored, and its clips.

    Raises:
        UserError: the folder is no suite, or none of its rows can be scored.
    """
    started = time.perf_counter()
    recordings, refused = read_suite(folder)
    work = workdir("suite", params, name, folder, data / "topics.txt")
    talkers = plan_talkers(params.voice, data)
    written = [recording.question for recording in recordings if recording.sound is None]
    questions = written[: params.suite.max_questions] or [recording.question for recording in recordings]
    if written:
        training = training_voices(params.voice)
        speeches = plan_questions(params.voice, training, name, questions, params.suite.validation_share)
        clips, _ = record_all(speeches, talkers, work)
    else:
        readers = [(recording.question, recording.speaker, recording.read) for recording in recordings]
        clips = degrade_recordings(params, name, readers, talkers, work)
    report = {
        "num_questions": len(questions),
        "num_refused": len(refused),
        "causes": dict(Counter(row.cause for row in refused)),
        "minutes": (time.perf_counter() - started) / 60,
    }
    with publish(out, work) as partial_out:
        write_clips(partial_out, clips, work)
        write_jsonl(partial_out / "questions.jsonl", questions)
        write_jsonl(partial_out / "refused.jsonl", refused)
        (partial_out / "report.json").write_text(json.dumps(report, indent=2))
    print(f"{name}: {len(questions)} questions, {len(clips)} clips; {len(refused)} rows refused")
    for row in refused:
        print(f"  {row.file}:{row.row} {row.cause}")


if __name__ == "__main__":
    main(run)
