"""rows.jsonl of synthesize -> artifacts/voice: manifest.jsonl, clips/<clip id>.flac, report.json.

Every choice is drawn from a generator seeded by the clip's id, so that no clip depends on order or worker. A training
row is spoken with random settings. A held-out row is spoken by one voice and recorded clean and in several conditions,
which take turns, so that each is compared with clean speech in pairs.
"""

import json
import logging
import time
from pathlib import Path

from speech_rba.config import Params, Voice
from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT, Clip, Row, read_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.synthesis.conditions import DEGRADED
from speech_rba.synthesis.plan_clips import HeldOut, Setting, draw_clip, draw_condition, draw_speech
from speech_rba.synthesis.record_clips import record_all, write_clips
from speech_rba.synthesis.voices.voices import training_voices

CONDITIONS_PER_ROW = {"validation": 1, "test": 3}  # besides clean

log = logging.getLogger(__name__)


def run(params: Params, data: Path, rows: Path, out: Path) -> None:
    """`out` holds the clips of every training row, and one for each condition of every held-out row.

    Raises:
        UserError: an id is no file name or occurs twice, a held-out voice is unknown, there are no topics, or too few
            test rows for every condition.
    """
    started = time.monotonic()
    speeches = plan(params.voice, read_jsonl(rows / "rows.jsonl", Row))
    check_conditions(speeches)
    work = workdir("voice", params, data / "topics.txt", rows / "rows.jsonl")
    clips, made = record_all(speeches, params.voice, data, work)
    report = _report(clips, made, time.monotonic() - started)
    with publish(out, work) as folder:
        write_clips(folder, clips, work)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    num_long = sum(clip.duration_s > params.voice.max_duration_s for clip in clips)
    log.info(
        f"voice: {len(clips)} clips, {report['audio_minutes']:.1f} min of audio, {num_long} too long, "
        f"{len(clips) - len(made)} from an earlier run, {len(made) / report['minutes'] / 60:.1f} clips/s, "
        f"real-time factor {report['real_time_factor']}"
    )


def _report(clips: list[Clip], made: set[str], seconds: float) -> dict:
    """Counts and times; the real-time factor is computing time over audio made, None when no clip was new."""
    made_s = sum(clip.duration_s for clip in clips if clip.id in made)
    return {
        "num_clips": len(clips),
        "audio_minutes": sum(clip.duration_s for clip in clips) / 60,
        "minutes": seconds / 60,
        "real_time_factor": round(seconds / made_s, 5) if made_s else None,
    }


def plan(voice: Voice, rows: list[Row]) -> list[list[Clip]]:
    """The clips of each speech, all settings drawn; `duration_s` and `sha256` are still empty."""
    training, turns = training_voices(voice), {split: HeldOut(voice, split) for split in CONDITIONS_PER_ROW}
    speeches: list[list[Clip]] = []
    for row in rows:
        if row.split in turns:
            num_conditions = CONDITIONS_PER_ROW[row.split]
            speeches.append(turns[row.split].clips(row.id, row.id, ALIGNMENT, row.prompt, num_conditions))
            continue
        for clip_id in (f"{row.id}-{k}" for k in range(voice.train_clips_per_row)):
            speech = draw_speech(
                voice, clip_id, training, row.id, ALIGNMENT, row.split, row.prompt, Setting()
            )
            speeches.append([draw_clip(voice, clip_id, draw_condition(voice, clip_id), speech)])
    return speeches


def check_conditions(speeches: list[list[Clip]]) -> None:
    """Raises UserError where no test row is recorded in some condition: its row of the report would be empty."""
    test = [clip for speech in speeches for clip in speech if clip.split == "test"]
    if missing := sorted({*DEGRADED} - {clip.condition for clip in test}):
        raise UserError(
            f"{len({clip.row_id for clip in test})} test rows are too few to be recorded in every condition, "
            f"{', '.join(missing)} would be missing: raise synthesize.test_share or the numbers of texts"
        )


if __name__ == "__main__":
    main(run)
