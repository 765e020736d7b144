"""`memsafe-transcribe engines`: which engines are installed, whose they are, what they still need, and their limits."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint

from ._errors import TranscriberError
from ._transcription.protocol import Capabilities
from ._transcription.registry import installed, missing, resolve
from ._units import format_size


async def run() -> int:
    """Print them, each ready or with what it needs."""
    points = installed()
    if not points:
        print("none is installed: pip install 'memsafe-transcribe[offline]'")
    for name, point in points.items():
        what, capabilities = _found(name, point)
        owner = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
        print(f"{name}, of {owner}: {what or 'ready'}")
        if capabilities is not None:
            print(f"    {'; '.join(_limits(capabilities))}")
    return 0


def _found(name: str, point: EntryPoint) -> tuple[str | None, Capabilities | None]:
    """What it still needs, and its limits, as far as they can be told without options."""
    what = missing(point)
    if what is None:
        try:
            return None, resolve(name, None).capabilities
        except TranscriberError as error:
            what = " ".join(str(error).split())
    try:
        capabilities = getattr(point.load(), "capabilities", None)
    except (Exception, SystemExit):  # which is what `what` says already
        return what, None
    return what, capabilities if isinstance(capabilities, Capabilities) else None


def _limits(capabilities: Capabilities) -> Iterator[str]:
    chunks = f"chunks up to {capabilities.longest_chunk_seconds:g} s"
    if capabilities.min_chunk_seconds:
        chunks += f", from {capabilities.min_chunk_seconds:g} s"
    if capabilities.max_chunk_bytes is not None:
        chunks += f", {format_size(capabilities.max_chunk_bytes)}"
        chunks += " as base64" if capabilities.counts_base64 else ""
    yield chunks
    yield f"{capabilities.concurrency} at once"
    times = {"word": "times of words", "segment": "times of segments", "none": "no times"}[capabilities.timestamps]
    yield times if capabilities.trusts_times or capabilities.timestamps == "none" else f"{times}, not trusted"
    yield f"languages {', '.join(capabilities.languages)}" if capabilities.languages is not None else "any language"
    yield "takes a prompt" if capabilities.takes_prompt else "no prompt"
    seconds = min(60.0, capabilities.longest_chunk_seconds)
    call = format_size(capabilities.memory_bytes(seconds))
    yield f"{format_size(capabilities.resident_bytes)} while open, {call} for a chunk of {seconds:g} s"
