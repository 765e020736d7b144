"""Unpacking gzip as it comes, in pieces: what one packet unpacks to is never held whole."""

import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .._errors import DownloadProtocolError, TruncatedDownloadError
from .._units import MiB
from .incoming import too_large

_GZIP = 16 + zlib.MAX_WBITS  # RFC 1952 framing, and nothing else
_PIECE_BYTES = 1 * MiB
_SLICE_BYTES = 16 * 1024


async def unpacked(parts: AsyncGenerator[bytes], url: str, max_bytes: int) -> AsyncGenerator[bytes]:
    """The content of a gzip stream, of one member or several, with or without zeros behind.

    Args:
        parts: the stream as it comes.
        url: for messages.
        max_bytes: the cap on the stream itself: it may unpack to nothing for ever.

    Raises:
        DownloadProtocolError: it is not gzip.
        TruncatedDownloadError: it ends early.
        DownloadTooLargeError: it is longer than the cap.

    **Memory**: at most one part and 1 MiB.
    """
    member = zlib.decompressobj(_GZIP)
    is_begun, packed_bytes = False, 0
    try:
        async with aclosing(parts):
            async for part in parts:
                packed_bytes += len(part)
                if packed_bytes > max_bytes:
                    raise too_large(url, packed_bytes, max_bytes, "sends")
                # What is left behind a member is copied, so a part of many small members is gone through in slices.
                for start in range(0, len(part), _SLICE_BYTES):
                    left = part[start : start + _SLICE_BYTES]
                    while left:
                        if member.eof:
                            if not (left := left.lstrip(b"\0")):
                                break
                            member = zlib.decompressobj(_GZIP)
                        is_begun = True
                        yield member.decompress(left, _PIECE_BYTES)
                        left = member.unused_data if member.eof else member.unconsumed_tail
    except zlib.error:
        raise DownloadProtocolError(f"{url}: said to be gzip, and is not", url=url) from None
    if is_begun and not member.eof:
        raise TruncatedDownloadError(f"{url}: the gzip stream ends early", url=url, retryable=True)
