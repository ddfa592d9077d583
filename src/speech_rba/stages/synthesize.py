"""data/topics.txt, data/constraints.jsonl -> artifacts/synthesize: rows.jsonl, rejected.jsonl,
report.json."""

import json
import time
from collections import Counter
from pathlib import Path

from speech_rba.config import Params
from speech_rba.errors import UserError
from speech_rba.records import Rejected, Row, write_jsonl
from speech_rba.stages import main, publish, workdir
from speech_rba.synthesis.feedback import feedback_prompts
from speech_rba.synthesis.filters import NearDuplicates
from speech_rba.synthesis.keep_rows import Writer, kept_feedback, kept_rows
from speech_rba.synthesis.quotas import NUM_ROWS
from speech_rba.synthesis.write_round import read_sources


def run(params: Params, data: Path, out: Path, purpose: str = "alignment") -> None:
    """The rows that pass the filters, and the rejected texts with their reasons. A killed run goes on.

    `purpose` is alignment or asr_adapter; the texts of the two differ.

    Raises:
        UserError: the purpose is another, or the teacher writes too few texts that pass.
    """
    params = for_purpose(params, purpose)
    work = workdir("synthesize", params, data / "topics.txt", data / "constraints.jsonl", purpose)
    started = time.perf_counter()
    writer = Writer(params, read_sources(params.synthesize, data), work)
    duplicates = NearDuplicates(params.synthesize.near_duplicate)
    results = list(kept_feedback(writer, feedback_prompts(params.synthesize.feedback), duplicates))
    results += [result for task in NUM_ROWS for result in kept_rows(writer, task, duplicates)]
    rows = [result for result in results if isinstance(result, Row)]
    rejected = [result for result in results if isinstance(result, Rejected)]
    report = {
        "kept": len(rows),
        "rejected": dict(Counter(text.reason for text in rejected)),
        "tokens_per_s": writer.tokens / writer.seconds if writer.seconds else None,
        "minutes": (time.perf_counter() - started) / 60,
    }
    with publish(out, work) as folder:
        write_jsonl(folder / "rows.jsonl", rows)
        write_jsonl(folder / "rejected.jsonl", rejected)
        (folder / "report.json").write_text(json.dumps(report, indent=2))
    print(f"{len(rows)} rows kept, {len(rejected)} refused; {writer.tokens} tokens in {writer.seconds:.0f} s")


def for_purpose(params: Params, purpose: str) -> Params:
    """`params` with the numbers and the seed of the texts of `purpose`."""
    if purpose not in ("alignment", "asr_adapter"):
        raise UserError(f"no purpose {purpose!r}; allowed: alignment, asr_adapter")
    if purpose == "alignment":
        return params
    texts = params.asr_adapter.texts.model_dump(include={"seed", "num_instructions", "num_questions"})
    texts |= {"num_constrained": 0, "feedback": None}
    return params.model_copy(update={"synthesize": params.synthesize.model_copy(update=texts)})


if __name__ == "__main__":
    main(run)
