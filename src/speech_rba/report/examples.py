"""The clips that the page plays, with their transcripts and every system's answer."""

import base64
import difflib
import re
from collections import Counter
from pathlib import Path

from speech_rba.errors import UserError
from speech_rba.records import ALIGNMENT, Answer
from speech_rba.report.results import Results

WordMatches = list[tuple[str, bool]]  # each word, and whether the other text has it too


def examples(results: Results, num_examples: int) -> list[dict]:
    """Examples of clips that this project makes: a page may not copy the recordings of other suites."""
    suites = {clip.suite for clip in results.clips.values()}
    answers = [answer for answer in results.answers if answer.suite in suites]
    return [example(results, clip_id) for clip_id in pick_examples(answers, results.conditions, num_examples)]


def pick_examples(answers: list[Answer], conditions: list[str], num_examples: int) -> list[str]:
    """Clip ids: conditions, voices and suites in turn, degraded conditions first. Scores do not matter.

    Of conditions with equally many examples, the last of `conditions` is next.
    """
    candidates = {answer.clip_id: answer for answer in answers if answer.clip_id}
    counts: Counter[tuple[str, str]] = Counter()
    picked: list[Answer] = []
    while candidates and len(picked) < num_examples:
        best = min(candidates.values(), key=lambda answer: example_rank(answer, conditions, counts))
        picked.append(candidates.pop(best.clip_id))
        counts.update(example_groups(best))
    picked.sort(key=lambda answer: answer.condition == "clean")  # stable
    return [answer.clip_id for answer in picked]


def example_groups(answer: Answer) -> list[tuple[str, str]]:
    """The groups of a clip among which the examples vary, the most important first."""
    pair = (answer.condition, answer.voice)
    return [("condition", answer.condition), pair, ("voice", answer.voice), ("suite", answer.suite)]


def example_rank(answer: Answer, conditions: list[str], counts: Counter[tuple[str, str]]) -> tuple:
    """A sort key: the clip whose groups have the fewest examples is next."""
    rare = [counts[group] for group in example_groups(answer)]
    return rare, -conditions.index(answer.condition), answer.clip_id


def example(results: Results, clip_id: str) -> dict:
    """One clip with its transcript, its hypotheses and every system's answer.

    Keys: clip, wer, audio (a data URL), transcript (a list of (word, matches)), hypotheses (such a list by
    transcriber), teacher (None for a question of a suite), metric, answers ((system index, system, response,
    score), in the order of the systems).

    Raises:
        UserError: the clip, its file or the answer of a system is missing.
    """
    answers = answers_of_clip(results, clip_id)
    if clip_id not in results.clips or clip_id not in results.features:
        raise UserError(
            f"answers.jsonl scores clip {clip_id}, which validation did not accept; run evaluate again"
        )
    clip, feature = results.clips[clip_id], results.features[clip_id]
    hypotheses = {"Whisper": feature.judge_hypothesis, "student": feature.student_hypothesis}
    matches = {
        name: word_diff(clip.transcript, text) for name, text in hypotheses.items() if text is not None
    }
    row = results.rows.get(clip.row_id) if clip.suite == ALIGNMENT else None
    metric = example_metric(results, answers)
    return {
        "clip": clip,
        "wer": feature.wer,
        "audio": audio_url(results.recordings[clip_id]),
        "transcript": matches["Whisper"][0],
        "hypotheses": {name: words for name, (_, words) in matches.items()},
        "teacher": row and row.completion,
        "metric": metric,
        "answers": [
            (index, system, answers[system].response, answers[system].metrics[metric])
            for index, system in enumerate(results.systems)
        ],
    }


def answers_of_clip(results: Results, clip_id: str) -> dict[str, Answer]:
    """Each system's answer to a clip, and the text system's to its row.

    Raises:
        UserError: a system has none.
    """
    answers = {answer.system: answer for answer in results.answers if answer.clip_id == clip_id}
    clip = next(iter(answers.values()))
    key = ("text", clip.suite, clip.row_id)
    answers |= {a.system: a for a in results.answers if (a.system, a.suite, a.row_id) == key}
    if missing := set(results.systems) - set(answers):
        raise UserError(f"clip {clip_id} has no answer of {', '.join(sorted(missing))}; run evaluate again")
    return answers


def example_metric(results: Results, answers: dict[str, Answer]) -> str:
    """The suite's primary metric where the answers have it, else their first."""
    spoken = next(iter(answers.values()))
    primary = results.primary_metric(spoken.suite)
    return primary if primary in spoken.metrics else next(iter(spoken.metrics))


def audio_url(path: Path) -> str:
    """The file as a data URL: the page needs no other file."""
    return f"data:audio/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def word_diff(transcript: str, hypothesis: str) -> tuple[WordMatches, WordMatches]:
    """The words of both texts; case and punctuation do not count."""
    texts = transcript.split(), hypothesis.split()
    keys = [[re.sub(r"[\W_]", "", word.lower()) for word in text] for text in texts]
    matches = [[False] * len(text) for text in texts]
    matcher = difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    for i, j, size in matcher.get_matching_blocks():
        matches[0][i : i + size] = matches[1][j : j + size] = [True] * size
    first, second = (list(zip(text, marks, strict=True)) for text, marks in zip(texts, matches, strict=True))
    return first, second
