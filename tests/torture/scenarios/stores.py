"""What a store has kept."""

import time

import anyio

import memsafe_transcribe as mt

from ..cases import case
from ..place import Place
from .jobs import several


async def _much(place: Place) -> None:
    """So much that pages of the file come free when it is removed."""
    await several(place)
    async with place.job_store() as store:
        for number in range(30):
            failed = mt.FailedUrl(reason="gone" * 500, status_code=404, until_unix_seconds=time.time() + 1000)
            await store.remember(f"{place.url}/{number}", failed)


@case(begin=_much, forgets=True)
async def cleaned(place: Place) -> None:
    """All that is there is too old."""
    store = place.job_store()
    await store.cleanup(finished_seconds=0, unfinished_seconds=0, failed_url_seconds=0, spool_dir=place.spool)
    async with store.cleaning(every_seconds=0.01, spool_dir=place.spool):
        await anyio.sleep(0.03)
    async with store:
        await several(place)
