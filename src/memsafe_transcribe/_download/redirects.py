"""Requests that follow redirects, each step judged like the first URL; and the headers that go along."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from .._errors import DownloadProtocolError
from . import policy as rules
from .transport import Answer, Asking

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# These are about the connection and the body's form, which are ours.
_OUR_HEADERS = frozenset(
    {
        "accept-encoding", "connection", "content-length", "expect", "host", "if-range", "keep-alive",
        "proxy-authorization", "proxy-connection", "range", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?")  # ASCII, no blanks at its ends


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The caller's headers, if they are about nothing that is ours.

    Raises:
        ValueError: they are about the connection, the form of the body, or ranges; or no headers at all.
    """
    for name, value in (headers or {}).items():
        if name.lower() in _OUR_HEADERS:
            raise ValueError(f"headers: {name} is set by the downloader")
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise ValueError(f"headers: {name!r} or its value has characters that no header may have")
    return dict(headers or {})


@asynccontextmanager
async def following(
    asking: Asking, method: str, url: str, headers: Mapping[str, str], own_headers: Mapping[str, str]
) -> AsyncIterator[Answer]:
    """Ask, and ask on where redirects lead; yield the first answer that is none. What redirects say is not read.

    Args:
        asking: how requests are sent.
        method: GET or HEAD.
        url: where to begin.
        headers: the caller's. They do not go to another origin, and stay away if a later redirect leads back.
        own_headers: ours, which go everywhere.

    Raises:
        UrlBlockedError, DownloadError: as `Asking.ask` does; or for a redirect that is refused.
        DownloadProtocolError: they do not end.
    """
    first = url
    for _ in range(MAX_REDIRECTS + 1):
        async with asking.ask(method, url, {**headers, **own_headers}) as answer:
            location = answer.headers.get("location")
            if answer.status_code not in _REDIRECTS or location is None:
                yield answer
                return
        target = rules.redirect_target(url, location, asking.policy)
        headers = rules.headers_across(url, target, headers)
        url = target
    where = rules.shown(first)
    raise DownloadProtocolError(f"{where}: more than {MAX_REDIRECTS} redirects", url=where)
