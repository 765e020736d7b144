"""Where the models of faster-whisper lie on this machine, and how large they are. Imports nothing of its libraries."""

import os
from pathlib import Path

from .._units import MB

# Each name's repository on the Hugging Face hub, and the bytes of its files: faster_whisper.utils has the same names.
_SYSTRAN = {
    "tiny": 78, "base": 148, "small": 486, "medium": 1531, "tiny.en": 78, "base.en": 148, "small.en": 486,
    "medium.en": 1531, "large-v1": 3091, "large-v2": 3091, "large-v3": 3091,
}  # fmt: skip
_HUB = {
    **{name: (f"Systran/faster-whisper-{name}", size) for name, size in _SYSTRAN.items()},
    "large": ("Systran/faster-whisper-large-v3", 3091),
    "distil-small.en": ("Systran/faster-distil-whisper-small.en", 336),
    "distil-medium.en": ("Systran/faster-distil-whisper-medium.en", 792),
    "distil-large-v2": ("Systran/faster-distil-whisper-large-v2", 1516),
    "distil-large-v3": ("Systran/faster-distil-whisper-large-v3", 1516),
    "distil-large-v3.5": ("distil-whisper/distil-large-v3.5-ct2", 1516),
    "large-v3-turbo": ("mobiuslabsgmbh/faster-whisper-large-v3-turbo", 1622),
    "turbo": ("mobiuslabsgmbh/faster-whisper-large-v3-turbo", 1622),
}
# Without its tokenizer, faster-whisper would fetch one from the internet and say nothing.
_NEEDED = ("model.bin", "config.json", "tokenizer.json")


def repository(model: str) -> str | None:
    """The repository that a name means, "owner/name" being one already; None if it is neither."""
    return _HUB[model][0] if model in _HUB else model if model.count("/") == 1 else None


def announced_bytes(model: str) -> int:
    """The size of a model that is not here yet; of one that nobody knows, that of the largest."""
    return _HUB.get(model, _HUB["large"])[1] * MB


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it has fetched (its docs, "Environment variables")."""
    for name, inside in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if value := os.environ.get(name):
            return Path(value).expanduser() / inside
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def local_folder(model: str, cache: Path) -> Path | None:
    """The folder with a model's files: `model` itself if it is one, else what the cache has; None if there is none."""
    folder = Path(model)
    if not folder.is_dir():
        if (name := repository(model)) is None:
            return None
        kept = cache / f"models--{name.replace('/', '--')}"
        try:
            commit = (kept / "refs" / "main").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        folder = kept / "snapshots" / commit
    return folder if not lacking(folder) else None


def lacking(folder: Path) -> list[str]:
    """Which files of a model are not there."""
    return [name for name in _NEEDED if not (folder / name).is_file()]


def size_bytes(folder: Path) -> int:
    """Of the weights."""
    return (folder / "model.bin").stat().st_size
