"""HTTP, behind the address policy. The only file that touches httpx and httpcore."""

import functools
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import anyio
import httpcore
import httpx
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from .._errors import (
    DownloadConnectionError,
    DownloadError,
    DownloadProtocolError,
    DownloadTimeoutError,
    TruncatedDownloadError,
)
from . import sockets
from .pace import Pace, Patience
from .policy import UrlPolicy, address_refusal, blocked, check_literal_address, shown
from .resolving import resolved

HostTransport = httpx.AsyncBaseTransport
_READ_BYTES = 512 * 1024  # httpcore asks for 64 KiB at a time; fewer, larger pieces cost half as much, until caches end
_MOST_LEFT_PARTS = 8  # that are read from a host's own transport after it was closed
_DEFAULT_HEADERS = {
    "User-Agent": "memsafe-transcribe",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
}


class _GuardedStream(httpcore.AsyncNetworkStream):
    """A connection whose pace is watched. What anyio says of it becomes what httpcore would."""

    def __init__(self, stream: ByteStream, backend: "_GuardedBackend") -> None:
        self._stream = stream
        self._backend = backend
        backend.stream = self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        started = time.monotonic()
        with _mapped(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            try:
                data = await self._stream.receive(_READ_BYTES)
            except anyio.EndOfStream:
                return b""
        self._backend.pace.note(len(data), time.monotonic() - started)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        with _mapped(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            await self._stream.send(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            with _mapped(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
                wrapped = await TLSStream.wrap(
                    self._stream, ssl_context=ssl_context, hostname=server_hostname, standard_compatible=False
                )
        except BaseException:
            await self._stream.aclose()
            raise
        return _GuardedStream(wrapped, self._backend)

    def get_extra_info(self, info: str) -> Any:
        return None


@contextmanager
def _mapped(seconds: float | None, late: type[Exception], broken: type[Exception]) -> Iterator[None]:
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise late from error
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError, ssl.SSLError) as error:
        raise broken(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host once, judges every address that comes back, and dials what was judged.

    A name cannot change its address in between (DNS rebinding), and the URL is not rewritten: the Host header, SNI and
    the certificate stay the name's.
    """

    def __init__(self, url: str, policy: UrlPolicy, pace: Pace) -> None:
        self.pace = pace
        self.stream: _GuardedStream | None = None  # the connection, once there is one
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
        with _mapped(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            try:
                answers = await resolved(host, port)
            except (OSError, UnicodeError) as error:
                raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
            for *_, address in answers:
                if (reason := address_refusal(str(address[0]), self._policy)) is not None:
                    raise blocked(self._url, reason)
            for number, (family, *_, address) in enumerate(answers):
                # A host that swallows packets at one address must not use up the time for its others.
                left = anyio.current_effective_deadline() - anyio.current_time()
                is_last = number == len(answers) - 1
                try:
                    with anyio.fail_after(None if is_last else left / (len(answers) - number)):
                        return _GuardedStream(await sockets.dial(family, address), self)
                except (OSError, TimeoutError):
                    if is_last:
                        raise
        raise httpcore.ConnectError(f"{host} has no address")

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

    def __init__(self, url: str, backend: _GuardedBackend) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_ssl_context() if url.startswith("https:") else None,
            max_connections=1,
            max_keepalive_connections=0,
            http1=True,
            http2=False,
            network_backend=backend,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A response whose body has not been read yet. `body` yields it as it comes, undecoded."""

    url: str
    status_code: int
    headers: httpx.Headers
    body: AsyncGenerator[bytes]


@dataclass(frozen=True, slots=True)
class Asking:
    """How requests are sent: by which rules and with how much patience, or through a transport of the host's own."""

    policy: UrlPolicy
    patience: Patience
    host_transport: HostTransport | None = None

    @asynccontextmanager
    async def ask(self, method: str, url: str, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Send one request and yield the answer; redirects are not followed. The connection is closed on every exit.

        Raises:
            UrlBlockedError: an address of the host is refused, or the URL is not one that can be sent.
            DownloadConnectionError, DownloadTimeoutError, DownloadProtocolError: also while the body is read.
        """
        where, patience = shown(url), self.patience
        if self.host_transport is not None:
            check_literal_address(url, self.policy)
        timeout = httpx.Timeout(patience.read_seconds, connect=patience.connect_seconds)
        sent = httpx.Headers(_DEFAULT_HEADERS)  # whatever the case that the caller writes names in
        sent.update(headers)
        try:
            request = httpx.Request(method, url, headers=sent, extensions={"timeout": timeout.as_dict()})
        except (httpx.InvalidURL, UnicodeError):  # the latter for hosts that IDNA does not know
            raise blocked(url, "it is not a well-formed URL") from None
        backend = _GuardedBackend(url, self.policy, Pace(where, patience))
        async with AsyncExitStack() as opened:
            http = self.host_transport  # its owner closes it
            if http is None:
                http = await opened.enter_async_context(_GuardedTransport(url, backend))
            with _translating(where, patience):
                response = await http.handle_async_request(request)
            backend.pace.head_is_in()
            await opened.enter_async_context(aclosing(response))
            body = _body(response, backend.stream, where, patience)
            yield Answer(url, response.status_code, response.headers, body)


async def _body(
    response: httpx.Response, stream: _GuardedStream | None, url: str, patience: Patience
) -> AsyncGenerator[bytes]:
    """The body as it comes.

    Where it is so many bytes and nothing else, httpx gives the first of them, with what it had read already, and the
    rest is read from our own connection: through its layers and those below it would take twice the time.

    The generators inside httpx and httpcore do not close one another. When reading stops early, reading on from the
    closed connection ends them all, behind the small chunks that had come in with its last read; trio would complain
    of each that is left.
    """
    # Not by `aiter_raw`: what a mocked transport answers with has been read before.
    assert isinstance(response.stream, httpx.AsyncByteStream)
    parts = aiter(response.stream)
    left_bytes = None if stream is None or "transfer-encoding" in response.headers else length(response.headers)
    try:
        with _translating(url, patience, TruncatedDownloadError):
            async for part in parts:
                yield part
                if stream is not None and left_bytes is not None:
                    left_bytes -= len(part)
                    break
            while stream is not None and left_bytes:
                part = (await stream.read(left_bytes, patience.read_seconds))[:left_bytes]
                if not part:
                    raise httpx.RemoteProtocolError("the server hung up before the end of the body")
                left_bytes -= len(part)
                yield part
    finally:
        with anyio.CancelScope(shield=True), suppress(httpx.HTTPError):
            await response.aclose()
            left_parts = count() if stream is not None else range(_MOST_LEFT_PARTS)  # a host's may go on for ever
            for _ in left_parts:
                if await anext(parts, None) is None:
                    break
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()


@contextmanager
def _translating(
    url: str, patience: Patience, broken: type[DownloadProtocolError] = DownloadProtocolError
) -> Iterator[None]:
    """Raise this library's errors instead of httpx's; `broken` is the one for HTTP that is not as it should be.

    What h11 says of such HTTP is cut at the colon, and is not chained: it quotes the server, which may echo the query.
    """
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise _passing(
            DownloadTimeoutError, f"{url}: no connection within {patience.connect_seconds:g} s", url
        ) from error
    except (httpx.TimeoutException, httpcore.TimeoutException) as error:
        raise _passing(DownloadTimeoutError, f"{url}: silent for {patience.read_seconds:g} s", url) from error
    except (httpx.NetworkError, httpcore.NetworkError, ssl.SSLError) as error:  # httpcore lets the last one through
        what = "no connection: " if isinstance(error, httpx.ConnectError) else ""
        text = f"{url}: {what}{str(error) or type(error).__name__}"
        raise DownloadConnectionError(text, url=url, retryable=not _is_about_the_certificate(error)) from error
    except httpx.HTTPError as error:
        raise _passing(broken, f"{url}: {str(error).partition(':')[0] or type(error).__name__}", url) from None


def _passing(kind: type[DownloadError], message: str, url: str) -> DownloadError:
    return kind(message, url=url, retryable=True)


def _is_about_the_certificate(error: BaseException | None) -> bool:
    """Whether the server is not who it says: asking it again changes nothing."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def length(headers: Mapping[str, str]) -> int | None:
    """What Content-Length says, if it is a number of bytes."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
