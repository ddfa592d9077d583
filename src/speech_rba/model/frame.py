"""The tokens around a query in every prompt: the model's chat template, or example translations.

A base model follows no instructions, but it continues a list. Each query and each translation has a line to
itself, so that neither begins with a space and a translation ends with its line.
"""

from transformers import PreTrainedTokenizerBase

MARK = "\u241e"  # stands for the query while the chat template is cut in two

# Written for this project.
EXAMPLES = {
    "Spanish": {
        "Where is the train station?": "¿Dónde está la estación de tren?",
        "My brother has lived in Madrid for ten years.": "Mi hermano vive en Madrid desde hace diez años.",
        "Don't forget to close the window before you go.": "No olvides cerrar la ventana antes de irte.",
        "I would like a glass of water, please.": "Quisiera un vaso de agua, por favor.",
        "She said that the film was too long.": "Ella dijo que la película era demasiado larga.",
        "It will probably rain tomorrow.": "Probablemente lloverá mañana.",
    },
    "German": {
        "Where is the train station?": "Wo ist der Bahnhof?",
        "My brother has lived in Madrid for ten years.": "Mein Bruder wohnt seit zehn Jahren in Madrid.",
        "Don't forget to close the window before you go.": (
            "Vergiss nicht, das Fenster zu schließen, bevor du gehst."
        ),
        "I would like a glass of water, please.": "Ich hätte gern ein Glas Wasser.",
        "She said that the film was too long.": "Sie sagte, dass der Film zu lang war.",
        "It will probably rain tomorrow.": "Morgen wird es wahrscheinlich regnen.",
    },
}


def chat_frame(tokenizer: PreTrainedTokenizerBase, system_prompt: str) -> tuple[list[int], list[int]]:
    """The token ids that the chat template puts before and after a user's query."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages = [*system, {"role": "user", "content": MARK}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, after = str(rendered).split(MARK)
    prefix_ids = tokenizer(before, add_special_tokens=False).input_ids
    return prefix_ids, tokenizer(after, add_special_tokens=False).input_ids


def translation_frame(
    tokenizer: PreTrainedTokenizerBase, language: str, back: bool = False
) -> tuple[list[int], list[int]]:
    """The token ids before and after a sentence to translate into `language`, a key of `EXAMPLES`, or back to
    English."""
    source, target = ("English", language)[:: -1 if back else 1]
    pairs = [pair[:: -1 if back else 1] for pair in EXAMPLES[language].items()]
    examples = "".join(f"{source}:\n{text}\n{target}:\n{translated}\n" for text, translated in pairs)
    # with the token that opens a text, if the model knows one
    prefix_ids = tokenizer(f"{examples}{source}:\n").input_ids
    return prefix_ids, tokenizer(f"\n{target}:\n", add_special_tokens=False).input_ids


def end_with_the_line(tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes the end of a line the tokenizer's EOS."""
    line_end = tokenizer("\n", add_special_tokens=False).input_ids[-1]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(line_end)
