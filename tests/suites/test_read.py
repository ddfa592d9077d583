"""Suites of others are read, and each row that cannot be scored is named with the cause."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from speech_rba.errors import UserError
from speech_rba.evaluation.metrics import answer_tokens
from speech_rba.records import Question, RefusedRow
from speech_rba.suites.read import Recording, read_suite

NOISE = np.random.default_rng(0).normal(0, 1, 16_000)
SPEECH = 0.1 * NOISE * (np.arange(16_000) // 4000 % 2)  # a second of two pauses and two sounds


HALF_AN_HOUR = np.zeros(1_801 * 1_000)  # and a second, at 1 kHz


def sound(samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format="WAV")
    return file.getvalue()


def suite(folder: Path, table: str | bytes, name: str = "q.tsv", num_files: int = 3) -> Path:
    """A folder with the table, beside wav/1.wav and so on."""
    (folder / "wav").mkdir(exist_ok=True)
    for number in range(1, num_files + 1):
        (folder / f"wav/{number}.wav").write_bytes(sound(SPEECH))
    (folder / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    return folder


def read_questions(recordings: list[Recording]) -> list[tuple[str, str, list[str]]]:
    return [(r.question.id, r.question.prompt, r.question.answers) for r in recordings]


def causes(refused: list[RefusedRow]) -> list[tuple[int, str]]:
    return [(row.row, row.cause) for row in refused]


BOTH = [("wav/1.wav", "Who?", ["Ada"]), ("wav/2.wav", 'Who said "hello"?', ["Zoë"])]
PLAIN = 'Questions\tAnswer\tWav Filename\nWho?\tAda\t1.wav\nWho said "hello"?\tZoë\t2.wav\n'


# ---- tab-separated text


@pytest.mark.parametrize(
    "table",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        "\n" + PLAIN.replace("\n", "\n\n \t\t\n") + "\n\t\t\n",
        PLAIN.replace("\n", "\t\t\n"),
        PLAIN.rstrip("\n"),
        'FILE\tanswer\tid\tQuestion\n1.wav\tAda\t\tWho?\nwav/2.wav\tZoë\t\tWho said "hello"?\n',
        'audio\tnotes\tanswers\tprompt\n1.wav\tx\tAda\tWho?\n2.wav\t\tZoë\t"Who said ""hello""?"\n',
        'Question\tAnswer\tFile\nWho?\tAda\t1.wav\n"Who said\n""hello""?"\tZoë\t2.wav\n',
    ],
    ids=[
        "plain",
        "crlf",
        "bom",
        "utf16",
        "utf16be",
        "blank",
        "empty columns",
        "no end",
        "order",
        "excel",
        "newline",
    ],
)
def test_every_form_of_saved_table_gives_the_same_questions(tmp_path, table):
    recordings, refused = read_suite(suite(tmp_path, table))
    assert read_questions(recordings) == BOTH and not refused
    assert len(recordings[0].read()) == 16_000


def test_quotes_inside_a_text_are_kept(tmp_path):
    rows = '"To be" is from?\tHamlet\t1.wav\n"To be or\tHam"let\t2.wav\n12" is?\tx\t3.wav\n'
    table = "Question\tAnswer\tFile\n" + rows
    recordings, _ = read_suite(suite(tmp_path, table))
    assert [r.question.prompt for r in recordings] == ['"To be" is from?', '"To be or', '12" is?']


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", r"q\.tsv is empty; give it a heading"),
        (b"\n\n \t\n", r"q\.tsv is empty"),
        ("Question\tAnswer\tFile\n", r"q\.tsv has no line below its heading"),
        (
            "Who?\tAda\t1.wav\n",
            r"q\.tsv, line 1, must be a heading that names the columns, separated by tabs: question, fil",
        ),
        ("\n\nWho?\tAda\t1.wav\n", r"q\.tsv, line 3, must be a heading"),
        ("Question,Answer,File\nWho?,Ada,1.wav\n", r"q\.tsv, line 1, .* it has 'Question,Answer,File'"),
        ("Question\tFile\nWho?\t1.wav\n", r"q\.tsv, line 1, .* and answer \(or choice, refuse"),
        (
            "Question\tquestion\tFile\tAnswer\n?\t?\t1.wav\ta\n",
            r"line 1: there are several columns 'question'",
        ),
        (PLAIN.encode("latin-1"), r"q\.tsv, line 3, is no UTF-8; save it as UTF-8"),
        (PLAIN.encode("utf-16-le"), r"q\.tsv, line \d, is no UTF-8|q\.tsv is no UTF-8 but holds zero bytes"),
        (PLAIN.replace("ë", "e").encode("utf-16-le"), r"q\.tsv is no UTF-8 but holds zero bytes"),
        (PLAIN.encode("utf-32"), r"q\.tsv is no UTF-8 but holds zero bytes"),
        (PLAIN.encode("utf-16")[:-1], r"q\.tsv, line \d, is no UTF-16"),
        (
            "Question\tAnswer\tFile\nWho?\t\t1.wav\n",
            r"no row of .* can be scored: q\.tsv, line 2: the answer is missing",
        ),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(tmp_path, table, message):
    with pytest.raises(UserError, match=message) as raised:
        read_suite(suite(tmp_path, table))
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ("\tAda\t2.wav", "the question is missing"),
        ("Who?\t\t2.wav", "the answer is missing"),
        ("Who?\tAda", "the file is missing"),
        ("Who?", "the file is missing"),
        ("Who?\tAda\t2.wav\tx", "it has more columns than the heading"),
        ("Who?\tthe\t2.wav", "the answer 'the' is articles or punctuation alone, and cannot be found"),
        ("Who?\t-\t2.wav", "the answer '-' is articles or punctuation alone"),
        ("Who?\tAda | ...\t2.wav", "the answer '...' is articles or punctuation alone"),
        ("Who?\t['Ada' 'Zoe']\t2.wav", "is no list as JSON or Python write it"),
        ("Who?\t[Ada]\t2.wav", "is no list as JSON or Python write it"),
        ("Who?\tAda\t1.wav", "its id 'wav/1.wav' is that of q.tsv, line 2; give each its own"),
        ("Who?\tAda\t9.wav", "the file 9.wav is not there"),
        ("Who?\tAda\t" + "9" * 300, "is no name of a file|is not there"),
        ("Who?\tAda\t../../secret.wav", "lies outside the folder; allowed are files inside it"),
        ("Who?\tAda\t/etc/passwd", "lies outside the folder"),
        ("Who?\tAda\t../wav", "the file ../wav"),
    ],
)
def test_a_bad_row_is_refused_with_line_and_cause_and_the_rest_is_scored(tmp_path, row, cause):
    table = f"Question\tAnswer\tFile\nOne?\tAda\t1.wav\n\n{row}\nThree?\tAda\t3.wav\n"
    recordings, refused = read_suite(suite(tmp_path, table))
    assert [r.question.prompt for r in recordings] == ["One?", "Three?"]
    [bad] = refused
    assert (bad.file, bad.row, bad.text) == ("q.tsv", 4, row.split("\t")[0])
    assert any(part in bad.cause for part in cause.split("|")), bad.cause


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "wav/2.wav is no readable audio file (it is empty)"),
        (b"RIFF", "wav/2.wav is no readable audio file"),
        (b"<html>404</html>", "wav/2.wav is no readable audio file; give WAV, FLAC"),
        (sound(np.zeros(0)), "wav/2.wav holds no sound"),
        (sound(SPEECH)[:46], "the recording has 0.00 s; allowed are 0.1 to 1800 s"),
        (
            sound(np.where(NOISE > 3, np.nan, SPEECH), subtype="FLOAT"),
            "wav/2.wav holds samples that are NaN or infinite",
        ),
        (sound(HALF_AN_HOUR, 1_000), "wav/2.wav is longer than 30 minutes; cut it"),
        (sound(np.zeros(16_000)), "the recording is silent"),
        (sound(np.zeros((16_000, 2))), "the recording is silent"),
        (sound(0.0005 * NOISE), "the recording is silent"),  # faint noise: 20 log10 0.0005 is -66 dB
        (sound(np.where(np.arange(16_000) == 900, 0.1, 0)), "the recording is silent"),  # a click
    ],
)
def test_recordings_that_cannot_be_used_are_refused(tmp_path, content, cause):
    folder = suite(tmp_path, "Question\tAnswer\tFile\nOne?\tAda\t1.wav\nTwo?\tAda\t2.wav\n")
    (folder / "wav/2.wav").write_bytes(content)
    recordings, [bad] = read_suite(folder)
    assert len(recordings) == 1 and bad.row == 3 and cause in bad.cause


def test_quiet_speech_is_accepted(tmp_path):
    folder = suite(tmp_path, "Question\tAnswer\tFile\nOne?\tAda\t1.wav\n")
    (folder / "wav/1.wav").write_bytes(sound(SPEECH / 1000))  # -83 dB
    assert len(read_suite(folder)[0]) == 1


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("Paris", ["Paris"]),
        ("Paris | City of Light|Lutetia", ["Paris", "City of Light", "Lutetia"]),
        ('["Paris", "City of Light"]', ["Paris", "City of Light"]),
        ("['Paris', \"the | of L'Étoile\"]", ["Paris", "the | of L'Étoile"]),
        ('"[""Paris"", ""Lutetia""]"', ["Paris", "Lutetia"]),  # as Excel writes it
        ("[1789, 2.5]", ["1789", "2.5"]),
    ],
)
def test_several_answers_are_separated_by_a_bar_or_are_a_list(tmp_path, cell, answers):
    table = f"Question\tAnswer\tFile\nWhere?\t{cell}\t1.wav\n"
    assert read_suite(suite(tmp_path, table))[0][0].question.answers == answers


def test_several_columns_may_have_answers(tmp_path):
    table = "Question\tAnswer\tAliases\tAnswer 2\tFile\nWhere?\tParis\tLutetia | Lutèce\t\t1.wav\n"
    assert read_suite(suite(tmp_path, table))[0][0].question.answers == ["Paris", "Lutetia", "Lutèce"]


@pytest.mark.parametrize("answer", ["the", "A", "an the", "-", "...", "´", "“a”", "t.h.e", "_", "a/an", "¿?"])
def test_an_answer_without_words_is_refused(tmp_path, answer):
    assert not answer_tokens(answer)
    with pytest.raises(UserError, match="is articles or punctuation alone"):
        read_suite(suite(tmp_path, f"Question\tAnswer\tFile\nWho?\t{answer}\t1.wav\n"))


@pytest.mark.parametrize("answer", ["I", "7", "the the1", "½", "日本", "None", "a-b", "C"])
def test_an_answer_with_a_word_is_scored(tmp_path, answer):
    assert answer_tokens(answer)
    read_suite(suite(tmp_path, f"Question\tAnswer\tFile\nWho?\t{answer}\t1.wav\n"))


def test_a_suite_may_have_questions_of_several_kinds(tmp_path):
    table = (
        "id\tquestion\tfile\tanswer\tchoice\trefuse\tjudged\ttranslations\tinstruction_id_list\tkwargs\n"
        "a\tWhich?\t1.wav\t\t(b)\n"
        "b\tWhich?\t2.wav\tlions\tC.\tno\t0\n"
        "c\tWho?\t3.wav\tAda\t\t\n"
        "d\tHarm?\t4.wav\t\t\tyes\n"
        "e\tTell.\t5.wav\t\t\tFALSE\tx\n"
        "f\tSay.\t6.wav\t\t\t\t\tDilo. | Di.\n"
        'g\tTell.\t7.wav\t\t\t\t\t\t["punctuation:no_comma"]\t[{}]\n'
        "h\tWhich?\t8.wav\t\tE\n"
        "i\tHarm?\t9.wav\t\t\tperhaps\n"
        "a\tAgain?\t10.wav\tAda\n"
    )
    recordings, refused = read_suite(suite(tmp_path, table, num_files=10))
    a, b, c, d, e, f, g = (r.question for r in recordings)
    assert (a.choice, b.choice, b.answers, c.answers, c.choice) == ("B", "C", [], ["Ada"], None)
    assert (d.refuse, d.judged, e.refuse, e.judged, f.translations) == (
        True,
        False,
        False,
        True,
        ["Dilo.", "Di."],
    )
    assert [i.name for i in g.instructions] == ["punctuation:no_comma"] and not c.instructions
    assert causes(refused) == [
        (9, "the choice 'E' is none of A, B, C, D"),
        (10, "refuse is 'perhaps'; allowed are yes and no"),
        (11, "its id 'a' is that of q.tsv, line 2; give each its own"),
    ]


# ---- recordings that are only transcribed


@pytest.mark.parametrize(
    "heading", ["file\ttext\n", "file\ttext\tspeaker\n", "Audio\tTranscript\n", "\ufeffFile\tText\n", ""]
)
def test_transcripts_may_lack_a_heading(tmp_path, heading):
    table = f"{heading}wav/1.wav\tbook a room\nwav/2.wav\t\n\nwav/3.wav\ttoday\n"
    recordings, refused = read_suite(suite(tmp_path, table, "transcripts.tsv"))
    assert read_questions(recordings) == [("wav/1.wav", "book a room", []), ("wav/3.wav", "today", [])]
    assert causes(refused) == [(2 + bool(heading), "the question is missing")]


def test_transcripts_may_have_more_columns_and_another_order(tmp_path):
    table = "speaker\ttext\tfile\n12\ttoday\twav/1.wav\n\tbook a room\twav/2.wav\n"
    recordings, _ = read_suite(suite(tmp_path, table, "transcripts.tsv"))
    assert read_questions(recordings) == [("wav/1.wav", "today", []), ("wav/2.wav", "book a room", [])]
    assert [recording.speaker for recording in recordings] == ["12", ""]


# ---- questions of this project


def test_written_questions_are_checked_line_by_line(tmp_path):
    def line(**fields: Any) -> str:
        return json.dumps({"id": "q", "prompt": "Who?", "answers": ["Ada"]} | fields)

    lines = [
        line(),
        "",
        line(id="two", answers=[], choice="B"),
        '{"id": "broken"',
        line(id="three", answer="Ada"),
        line(),
        line(id="four", answers=["the"]),
        line(id="five", answers=[]),
        line(id="six", prompt=" "),
        line(id="seven", wrong=["a"]),
        line(id=" "),
        line(id="eight", answers="Ada"),
        "[]",
        line(id="nine", answers=[], instructions=[{"name": "none:such", "arguments": {}}]),
    ]
    recordings, refused = read_suite(suite(tmp_path, "\n".join(lines), "questions.jsonl"))
    assert [(r.question.id, r.sound) for r in recordings] == [("q", None), ("two", None)]
    cause_by_row = {row.row: row.cause for row in refused}
    assert list(cause_by_row) == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    parts = [
        "Invalid JSON",
        "answer: Extra inputs",
        "'q' is that of questions.jsonl, line 1",
        "'the' is articles",
    ]
    parts += [
        "the answer is missing",
        "the question is missing",
        "'a' is articles",
        "the id ' ' must be letters",
        "answers: Input",
    ]
    parts += ["it is no question", "no instruction 'none:such'"]
    assert all(part in cause for part, cause in zip(parts, cause_by_row.values(), strict=True))
    assert refused[0].file == "questions.jsonl" and refused[0].text.startswith('{"id": "broken"')


@pytest.mark.parametrize("name", ["spoken_qa", "spoken_constraints", "attributes", "translation_de"])
def test_every_row_of_the_projects_suites_can_be_scored(name):
    _, refused = read_suite(Path(__file__).parents[2] / "data/suites" / name)
    assert not refused


# ---- Parquet


def write_parquet(folder: Path, columns: dict[str, Any], name: str = "test-00000-of-00001.parquet") -> Path:
    """A file in VoiceBench's form, a second of sound at 8 kHz a row where `columns` give no other."""
    folder.mkdir(exist_ok=True)
    rows = len(next(iter(columns.values())))
    given = {"audio": [{"bytes": sound(SPEECH[::2], 8_000), "path": "1.wav"}] * rows} | columns
    pq.write_table(pa.table(given), folder / name)
    return folder


def test_voicebench_rows_are_scored_by_their_columns(tmp_path):
    def only(subset: str, **columns: list) -> Recording:
        [[recording], refused] = read_suite(write_parquet(tmp_path / subset, {"prompt": ["Who?"]} | columns))
        assert not refused and recording.question.id == "00000"
        return recording

    choice = only("openbookqa", reference=["B"])
    assert choice.question.choice == "B" and not choice.question.answers
    assert choice.read().shape == (16_000,)
    fact = only("sd-qa", reference=["Ada Lovelace"])
    assert fact.question.answers == ["Ada Lovelace"] and fact.question.choice is None
    instructed = only(
        "ifeval", instruction_id_list=[["punctuation:no_comma"]], kwargs=[[{"num_words": None}]]
    )
    assert [(i.name, i.arguments) for i in instructed.question.instructions] == [("punctuation:no_comma", {})]
    harmful, open_ended = only("advbench").question, only("commoneval").question
    assert harmful.refuse and not harmful.judged and open_ended.judged and not open_ended.refuse


@pytest.mark.parametrize(
    ("columns", "answers"),
    [
        ({"answers": [["Ada", "Zoe"]]}, ["Ada", "Zoe"]),
        ({"reference": [["Ada"]], "aliases": [["Zoe", "Z."]]}, ["Ada", "Zoe", "Z."]),
        ({"answer": [{"value": "Ada", "aliases": ["Zoe"], "type": "x"}]}, ["Ada", "Zoe"]),  # TriviaQA
        ({"answers": [{"text": ["Ada"], "answer_start": [3]}]}, ["Ada"]),  # SQuAD
        ({"answer": [1789]}, ["1789"]),
        ({"answer": [1789.0]}, ["1789"]),  # a column of numbers with gaps
        ({"reference": ["Ada | Zoe"]}, ["Ada", "Zoe"]),
    ],
)
def test_parquet_answers_may_be_lists(tmp_path, columns, answers):
    [recording], _ = read_suite(write_parquet(tmp_path / "qa", {"prompt": ["Who?"]} | columns))
    assert recording.question.answers == answers


NO_COMMA, WORDS = "punctuation:no_comma", "length_constraints:number_words"
FEW = {"num_words": 9, "relation": "less than"}


@pytest.mark.parametrize("form", [json.dumps, str])
def test_arguments_of_instructions_may_be_written_as_text(tmp_path, form):
    columns = {"prompt": ["a", "b"], "instruction_id_list": [[NO_COMMA, WORDS], [WORDS]]}
    columns["kwargs"] = [form([{"relation": None}, FEW]), form([FEW])]
    recordings, _ = read_suite(write_parquet(tmp_path / "whole", columns))
    assert [[i.arguments for i in r.question.instructions] for r in recordings] == [[{}, FEW], [FEW]]
    columns["kwargs"] = [[form({}), form(FEW | {"num_words": 9.0})], [form(FEW)]]
    again, _ = read_suite(write_parquet(tmp_path / "each", columns))
    assert [r.question for r in again] == [r.question for r in recordings]


@pytest.mark.parametrize(
    ("names", "kwargs", "cause"),
    [
        (
            [NO_COMMA, WORDS],
            json.dumps([{}]),
            f"2 instructions ({NO_COMMA}, {WORDS}) have 1 kwargs; give each its own",
        ),
        ([NO_COMMA], json.dumps([{}, {}]), "have 2 kwargs"),
        ([NO_COMMA], None, "have 0 kwargs"),
        ([NO_COMMA], "", "have 0 kwargs"),
        ([NO_COMMA], "[{", "is no list as JSON or Python write it"),
        ([NO_COMMA], json.dumps(["x y"]), "is no list as JSON or Python write it"),
        ([NO_COMMA], json.dumps([[1]]), "are no names with values"),
        (["none:such"], "[{}]", "no instruction 'none:such'"),
        ([WORDS], json.dumps([{"num_words": 9}]), "does not take"),
        ([WORDS], json.dumps([FEW | {"relation": "about"}]), "no relation 'about'"),
        ([NO_COMMA], json.dumps([FEW]), "does not take"),
        (["keywords:existence"], json.dumps([{"keywords": ["("]}]), "cannot be checked"),
        ([WORDS], json.dumps([FEW | {"num_words": {"a": 1}}]), "num_words"),
        ([], "[]", "the answer is missing"),
        (None, None, "the answer is missing"),
    ],
)
def test_instructions_that_cannot_be_checked_are_named(tmp_path, names, kwargs, cause):
    columns = {
        "prompt": ["One.", "Two."],
        "instruction_id_list": [[NO_COMMA], names],
        "kwargs": ["[{}]", kwargs],
    }
    recordings, [bad] = read_suite(write_parquet(tmp_path / "ifeval", columns))
    assert len(recordings) == 1
    assert (bad.file, bad.row, bad.text) == ("test-00000-of-00001.parquet", 1, "Two.") and cause in bad.cause


SOUND = {"bytes": sound(SPEECH), "path": "1.wav"}


@pytest.mark.parametrize(
    ("column", "cell", "cause"),
    [
        ("prompt", None, "the question is missing"),
        ("prompt", "  ", "the question is missing"),
        ("reference", None, "the answer is missing"),
        ("reference", "", "the answer is missing"),
        ("reference", "The.", "is articles or punctuation alone"),
        ("audio", None, "it holds no sound, at most the name of a file"),
        ("audio", {"bytes": None, "path": "1.wav"}, "it holds no sound, at most the name of a file"),
        ("audio", {"bytes": b"", "path": None}, "it holds no sound"),
        (
            "audio",
            {"bytes": b"RIFF?", "path": None},
            "test-00000-of-00001.parquet, row 1 is no readable audio file",
        ),
        ("audio", {"bytes": sound(np.zeros(16_000)), "path": None}, "the recording is silent"),
        ("audio", {"bytes": sound(HALF_AN_HOUR, 1_000), "path": None}, "is longer than 30 minutes"),
    ],
)
def test_a_bad_row_of_parquet_is_refused_and_the_rest_keep_their_numbers(tmp_path, column, cell, cause):
    columns = {"prompt": ["A?", "B?", "C?"], "reference": ["a1", "b1", "c1"], "audio": [SOUND] * 3}
    columns[column][1] = cell
    recordings, [bad] = read_suite(write_parquet(tmp_path / "qa", columns))
    assert [r.question.id for r in recordings] == ["00000", "00002"]
    assert (bad.file, bad.row) == ("test-00000-of-00001.parquet", 1) and cause in bad.cause, bad.cause


def test_a_prompt_with_turns_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"row 0: the question is no text: \['One.', 'Two.'\]"):
        read_suite(write_parquet(tmp_path / "qa", {"prompt": [["One.", "Two."]], "reference": ["x"]}))


def test_a_row_with_text_that_is_no_utf_8_is_refused(tmp_path):
    broken = pa.array([b"A?", b"\xff\xfe"], pa.binary()).view(pa.string())
    recordings, [bad] = read_suite(
        write_parquet(tmp_path / "qa", {"prompt": broken, "reference": ["x", "y"]})
    )
    assert len(recordings) == 1 and bad.row == 1 and "a cell cannot be read" in bad.cause


def test_ids_count_over_all_files_and_refused_rows_name_their_file(tmp_path):
    folder = write_parquet(tmp_path / "qa", {"prompt": ["A?", None], "reference": ["x", "y"]}, "a.parquet")
    write_parquet(folder, {"prompt": ["C?", None, "E?"], "reference": ["x", "y", "z"]}, "b.parquet")
    recordings, refused = read_suite(folder)
    assert [r.question.id for r in recordings] == ["00000", "00002", "00004"]
    assert [(row.file, row.row) for row in refused] == [("a.parquet", 1), ("b.parquet", 1)]


def test_parquet_of_another_form_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"mtbench/test-00000-of-00001.parquet has no column \['prompt'\]"):
        read_suite(write_parquet(tmp_path / "mtbench", {"turns": [["One.", "Two."]]}))
    with pytest.raises(UserError, match="bbh cannot be scored here"):
        read_suite(write_parquet(tmp_path / "bbh", {"prompt": ["Is it?"], "reference": ["yes"]}))
    with pytest.raises(UserError, match="none has no row"):
        read_suite(write_parquet(tmp_path / "none", {"prompt": pa.array([], pa.string())}))
    file = write_parquet(tmp_path / "cut", {"prompt": ["Is it?"]}) / "test-00000-of-00001.parquet"
    for content in (b"", b"404", file.read_bytes()[:-9]):
        file.write_bytes(content)
        with pytest.raises(
            UserError, match=r"test-00000-of-00001.parquet cannot be read .*; fetch or write it again"
        ):
            read_suite(file.parent)


def test_the_fetched_dataset_names_the_subset(tmp_path):
    folder = write_parquet(tmp_path / "harm", {"prompt": ["Harm?"]})
    assert read_suite(folder)[0][0].question.judged
    (folder / "source.json").write_text('{"subset": "data/advbench"}')
    assert read_suite(folder)[0][0].question.refuse
    for content in ("", "[]", "{}"):
        (folder / "source.json").write_text(content)
        with pytest.raises(UserError, match=r"source\.json does not say which subset was fetched"):
            read_suite(folder)


# ---- folders


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "is no suite: it needs questions.jsonl, .* it has none of them"),
        (["notes.txt"], "it has none of them"),
        (["a.tsv", "b.tsv"], r"it has a\.tsv, b\.tsv"),
        (["a.tsv", "questions.jsonl"], "and nothing else of these; it has"),
        (["a.tsv", "b.parquet"], "and nothing else of these; it has"),
        (["._q.tsv", "~$q.tsv"], "it has none of them"),
    ],
)
def test_folders_of_another_form_are_refused_with_their_tables(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_text(PLAIN)
    with pytest.raises(UserError, match=message):
        read_suite(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    for place in (tmp_path / "none", Path("hub:hlt-lab/voicebench/sd-qa")):
        with pytest.raises(
            UserError, match="is no folder; name one, and fetch one of the hub by `speech-rba fetch-sui"
        ):
            read_suite(place)


def test_a_refused_row_is_a_line_of_json(tmp_path):
    _, [bad] = read_suite(suite(tmp_path, "Question\tAnswer\tFile\nOne?\tAda\t1.wav\nTwo?\t\t2.wav\n"))
    assert RefusedRow.model_validate_json(bad.model_dump_json()) == bad


def test_a_written_question_is_read_unchanged(tmp_path):
    question = Question(id="q", prompt="Who?", answers=["Ada"], wrong=["Zoe"])
    [recording], _ = read_suite(suite(tmp_path, question.model_dump_json(), "questions.jsonl"))
    assert recording.question == question
