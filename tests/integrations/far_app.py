"""The FastAPI example with an engine whose answers come from the test, by a connection for each chunk."""

import os

import anyio

import app as example
import memsafe_transcribe as mt


class FarEngine:
    """Says where the chunk begins, and waits for its text; who is cancelled hangs up."""

    capabilities = mt.Capabilities(max_chunk_seconds=60.0, cache_key="far")

    async def transcribe(self, chunk: mt.AudioChunk, context: mt.ChunkContext) -> str:
        async with await anyio.connect_tcp("127.0.0.1", int(os.environ["ENGINE_PORT"])) as far:
            await far.send(f"{chunk.start_seconds:.0f}".encode())
            return (await far.receive()).decode()


example.transcriber = mt.ChunkedTranscriber(
    FarEngine(), chunk_seconds=10.0, store=example.store, downloader=mt.SafeDownloader(policy=example.policy)
)
app = example.app
