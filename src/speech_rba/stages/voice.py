"""rows.jsonl of synthesize -> artifacts/voice: manifest.jsonl, clips/<clip id>.flac, report.json."""

import json
import logging
import time
from pathlib import Path

from speech_rba.config import Params
from speech_rba.records import Row, read_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.synthesis.conditions import check_conditions
from speech_rba.synthesis.plan_clips import plan_rows
from speech_rba.synthesis.record_clips import record_all, summary, write_clips
from speech_rba.synthesis.voices.voices import plan_talkers, training_voices

log = logging.getLogger(__name__)


def run(params: Params, data: Path, rows: Path, out: Path) -> None:
    """`out` holds the clips of every training row, and one for each condition of every held-out row.

    Raises:
        UserError: an id is no file name or occurs twice, a held-out voice is unknown, there are no topics, or
            too few test rows for every condition.
    """
    started = time.monotonic()
    work = workdir("voice", params, data / "topics.txt", rows / "rows.jsonl")
    talkers = plan_talkers(params.voice, data)
    training = training_voices(params.voice)
    speeches = plan_rows(params.voice, training, read_jsonl(rows / "rows.jsonl", Row))
    check_conditions(speeches)
    clips, made = record_all(speeches, talkers, work)
    report = summary(clips, made, time.monotonic() - started)
    with publish(out, work) as folder:
        write_clips(folder, clips, work)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    num_long = sum(clip.duration_s > params.voice.max_duration_s for clip in clips)
    log.info(
        f"voice: {len(clips)} clips, {report['audio_minutes']:.1f} min of audio, {num_long} too long, "
        f"{len(clips) - len(made)} from an earlier run, {len(made) / report['minutes'] / 60:.1f} clips/s, "
        f"real-time factor {report['real_time_factor']}"
    )


if __name__ == "__main__":
    main(run)
