"""The worker's side: one task, whose transcriber each process of the worker makes for itself."""

import os
from pathlib import Path
from typing import Any

from celery import Celery

import memsafe_transcribe as mt
from memsafe_transcribe.integrations.celery import TranscriptionTask

REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
STORE = Path(os.environ.get("STORE", "jobs.sqlite"))
POLICY = mt.UrlPolicy(allow_private=os.environ.get("ALLOW_PRIVATE") == "1")

app = Celery("tasks", broker=REDIS, backend=REDIS)
app.conf.update(
    worker_prefetch_multiplier=1,  # what a worker cannot begin yet is for others
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 4 * 3600},  # longer than any task takes
)


class Speech(TranscriptionTask):
    """Tasks with this transcriber."""

    def make_transcriber(self) -> mt.ChunkedTranscriber:
        return mt.ChunkedTranscriber(
            "pocketsphinx",
            downloader=mt.SafeDownloader(policy=POLICY),
            store=mt.JobStore(STORE),  # what was heard is never paid for again
            queue_timeout_seconds=30,  # then the task makes room for others, and comes again
        )


@app.task(base=Speech, bind=True)  # type: ignore[untyped-decorator]
def transcribe(self: Speech, url: str) -> dict[str, Any]:
    """A URL's transcript, in the shape of OpenAI's `verbose_json`."""
    return self.transcriber.transcribe(url).to_dict()
