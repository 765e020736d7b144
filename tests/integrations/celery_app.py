"""The Celery application of the tests: its engine notes what it is asked, and stops where it is told to."""

import os
from pathlib import Path
from typing import Any

import anyio
from celery import Celery

import memsafe_transcribe as mt
from memsafe_transcribe.integrations.celery import TranscriptionTask

from ..store.engines import Teller

FOLDER = Path(os.environ.get("TEST_FOLDER", "."))
CHUNK_SECONDS = 1.0

app = Celery("tests", broker=os.environ.get("TEST_BROKER"), backend=os.environ.get("TEST_BROKER"))
app.conf.update(
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": float(os.environ.get("TEST_VISIBILITY_SECONDS", "3600"))},
)


async def note(number: int, chunk: mt.AudioChunk) -> None:
    """Write down the chunk; at one in the middle, say that it is in work, and stay there as the environment says."""
    with (FOLDER / "asked").open("a") as file:
        file.write(f"{chunk.start_seconds:.2f}\n")
    at = os.environ.get("TEST_STOP_AT", "")
    if at and chunk.start_seconds > 2.5 and not (FOLDER / "stopped").exists():
        (FOLDER / "pid").write_text(str(os.getpid()))
        (FOLDER / "pid").rename(FOLDER / "stopped")
        if at == "killed":
            await anyio.sleep_forever()
        while not mt.default_admission().is_draining:  # noqa: ASYNC110 - a thread sets it
            await anyio.sleep(0.01)


class Telling(TranscriptionTask):
    """With an engine that is counted, and a store."""

    def make_transcriber(self) -> mt.ChunkedTranscriber:
        return mt.ChunkedTranscriber(
            Teller(before=note),
            chunk_seconds=CHUNK_SECONDS,
            store=mt.JobStore(FOLDER / "jobs.sqlite"),
            queue_timeout_seconds=0.2,
        )


@app.task(base=Telling, bind=True, max_retries=0, default_retry_delay=1)  # type: ignore[untyped-decorator]
def transcribe(self: Telling, path: str) -> dict[str, Any]:
    """The transcript of a file, and the retries that its task has used up."""
    return {**self.transcriber.transcribe(Path(path)).to_dict(), "retries": self.request.retries}
