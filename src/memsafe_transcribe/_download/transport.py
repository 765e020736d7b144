"""HTTP, behind the address policy. The only file that touches httpx and httpcore."""

import functools
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import httpcore
import httpx

from .._errors import (
    DownloadConnectionError,
    DownloadProtocolError,
    DownloadTimeoutError,
    TruncatedDownloadError,
)
from .policy import UrlPolicy, address_refusal, blocked, shown

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
_USER_AGENT = "memsafe-transcribe"


class _GuardedBackend(httpcore.AnyIOBackend):
    """Resolves a host once, judges every address that comes back, and dials what was judged.

    A name cannot change its address in between (DNS rebinding), and the URL is not rewritten: the Host header, SNI and
    the certificate stay the name's.
    """

    def __init__(self, url: str, policy: UrlPolicy) -> None:
        super().__init__()
        self._url = url
        self._policy = policy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            with anyio.fail_after(timeout):
                answers = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"no answer from the resolver within {timeout:g} s") from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
        addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        for address in addresses:
            if (reason := address_refusal(address, self._policy)) is not None:
                raise blocked(self._url, reason)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise blocked(self._url, f"unix socket {path}")


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """One for the process: loading the certificate authorities takes 20 ms and some memory."""
    return httpx.create_ssl_context(trust_env=False)


class _GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport over a pool of our making: one connection, no reuse, HTTP/1.1, our backend.

    It is used without a client, which would read the environment, keep cookies, and read what a redirect says.
    """

    def __init__(self, url: str, policy: UrlPolicy) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_ssl_context() if url.startswith("https:") else None,
            max_connections=1,
            max_keepalive_connections=0,
            http1=True,
            http2=False,
            network_backend=_GuardedBackend(url, policy),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A response whose body has not been read yet. `body` yields it as it comes, undecoded."""

    status_code: int
    headers: httpx.Headers
    body: AsyncGenerator[bytes]


@asynccontextmanager
async def get(url: str, policy: UrlPolicy) -> AsyncIterator[Answer]:
    """Send one GET and yield the answer; redirects are not followed. The connection is closed on every exit.

    Raises:
        UrlBlockedError: an address of the host is refused, or the URL is not one that can be sent.
        DownloadConnectionError, DownloadTimeoutError, DownloadProtocolError: also while the body is read.
    """
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
    try:
        request = httpx.Request("GET", url, headers=headers, extensions={"timeout": timeout.as_dict()})
    except (httpx.InvalidURL, UnicodeError):  # the latter for hosts that IDNA does not know
        raise blocked(url, "it is not a well-formed URL") from None
    where = shown(url)
    async with _GuardedTransport(url, policy) as http:
        with _translating(where):
            response = await http.handle_async_request(request)
        async with aclosing(response):
            yield Answer(response.status_code, response.headers, _body(response, where))


async def _body(response: httpx.Response, url: str) -> AsyncGenerator[bytes]:
    """The generators inside httpx and httpcore do not close one another. When reading stops early, reading on from the
    closed connection ends them all; trio would complain of each that is left.
    """
    parts = response.aiter_raw()
    try:
        with _translating(url, TruncatedDownloadError):
            async for part in parts:
                yield part
    finally:
        with anyio.CancelScope(shield=True), suppress(httpx.HTTPError):
            await response.aclose()
            async for _ in parts:
                pass


@contextmanager
def _translating(url: str, broken: type[DownloadProtocolError] = DownloadProtocolError) -> Iterator[None]:
    """Raise this library's errors instead of httpx's; `broken` is the one for HTTP that is not as it should be.

    What h11 says of such HTTP is cut at the colon, and is not chained: it quotes the server, which may echo the query.
    """
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise DownloadTimeoutError(f"{url}: no connection within {CONNECT_SECONDS:g} s", url=url) from error
    except httpx.TimeoutException as error:
        raise DownloadTimeoutError(f"{url}: silent for {READ_SECONDS:g} s", url=url) from error
    except (httpx.NetworkError, ssl.SSLError) as error:  # after the handshake, httpcore lets the latter through
        raise DownloadConnectionError(f"{url}: {str(error) or type(error).__name__}", url=url) from error
    except httpx.HTTPError as error:
        raise broken(f"{url}: {str(error).partition(':')[0] or type(error).__name__}", url=url) from None
