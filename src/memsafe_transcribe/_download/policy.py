"""Pure: which URL and which address may be asked, and who may see the caller's headers.

A URL is judged twice: its text by `check_url`, before anything is sent; and each address that its host resolves to by
`address_refusal`, before it is dialled. What the text is read as must be what httpx will dial, so whatever parsers
disagree about is refused instead of interpreted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urljoin, urlsplit

import idna

from .._errors import UrlBlockedError
from .addresses import METADATA_HOSTS, is_private, never, unwrapped

_BAD_CHARACTERS = re.compile(r"[\x00-\x20\x7f\\]")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(:[0-9]*)?")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAX_HOST_CHARACTERS = 254  # RFC 1035, with the dot at the end; in Unicode a name is never longer than encoded
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNREADABLE = "(unreadable URL)"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlPolicy:
    """What may be downloaded from. The lists of hosts and ports close; `allow_private` and the networks open.

    Attributes:
        allow_private: also from this machine and private networks: for tests and intranets. Link-local addresses and
            cloud metadata services stay refused.
        allowed_hosts: only from these; None for any. A name, an address, or `*.example.com` for every name below
            example.com, but not itself. Their addresses are judged like any other's.
        allowed_ports: only from these; None for any. A URL that names none has its scheme's, 80 or 443.
        allowed_networks: also from these networks, "10.1.0.0/16", although they are private. What `allow_private` does
            not open, they do not open either.

    Raises:
        TypeError, ValueError: a field is not as described; the message names it.
    """

    allow_private: bool = False
    allowed_hosts: tuple[str, ...] | None = None
    allowed_ports: tuple[int, ...] | None = None
    allowed_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.allow_private) is not bool:  # "false" would open everything
            raise TypeError(f"allow_private must be a bool, got {self.allow_private!r}")
        for name, values, kind in (
            ("allowed_hosts", () if self.allowed_hosts is None else self.allowed_hosts, str),
            ("allowed_ports", () if self.allowed_ports is None else self.allowed_ports, int),
            ("allowed_networks", self.allowed_networks, str),
        ):
            if type(values) is not tuple or any(type(value) is not kind for value in values):
                raise TypeError(f"{name} must be a tuple of {kind.__name__}, got {values!r}")
        for host in self.allowed_hosts or ():
            try:
                _host_pattern(host)
            except ValueError as error:
                raise ValueError(f"allowed_hosts: {host!r} is no host, {error}") from None
        for port in self.allowed_ports or ():
            if not 1 <= port <= 65535:
                raise ValueError(f"allowed_ports: {port} is no port")
        for network in self.allowed_networks:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"allowed_networks: {error}") from None


_PUBLIC_ONLY = UrlPolicy()


def shown(url: str) -> str:
    """The URL as messages and logs may have it: without query, fragment and credentials.

    Without a host, or with a port that is none, nothing of it: what looks like its path may be a password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.netloc.rpartition("@")[2], parts.port
    except ValueError:
        return _UNREADABLE
    if not host:
        return _UNREADABLE
    text = f"{parts.scheme}://{host}{parts.path}"
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def check_url(url: str, policy: UrlPolicy = _PUBLIC_ONLY) -> None:
    """Judge the text of a URL; its host's addresses are judged when they are known.

    Args:
        url: as a stranger wrote it.
        policy: which hosts and ports are allowed.

    Raises:
        UrlBlockedError: not http or https, no host, credentials in it, characters or spellings that parsers disagree
            about, a metadata service by its name, or a host or port that is not on the policy's list.
    """
    try:
        _, host, port = _origin(url)
    except ValueError as error:
        raise blocked(url, str(error)) from None
    name = host.removesuffix(".")
    if name in METADATA_HOSTS:
        raise blocked(url, "its host is a metadata service")
    if policy.allowed_hosts is not None and not any(_is_host(name, allowed) for allowed in policy.allowed_hosts):
        raise blocked(url, "its host is not one of UrlPolicy(allowed_hosts=...)")
    if policy.allowed_ports is not None and port not in policy.allowed_ports:
        raise blocked(url, f"its port, {port}, is not one of UrlPolicy(allowed_ports=...)")


def redirect_target(url: str, location: str, policy: UrlPolicy = _PUBLIC_ONLY) -> str:
    """Where a redirect leads, judged like any URL.

    Args:
        url: the one that redirects.
        location: as the server wrote it, perhaps relative. Blanks in it are common, and are encoded.
        policy: which hosts and ports are allowed.

    Raises:
        UrlBlockedError: the target is refused, or leads from https to http.
    """
    try:
        target = urljoin(url, location.replace(" ", "%20"))
    except ValueError:
        raise blocked(location, "its host cannot be read") from None
    check_url(target, policy)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise blocked(target, "a redirect leads from https to http")
    return target


def address_refusal(address: str, policy: UrlPolicy) -> str | None:
    """Why this address may not be connected to; None if it may.

    Args:
        address: as the resolver gives it, perhaps with an IPv6 zone.
        policy: what is allowed besides public addresses.
    """
    ip = unwrapped(ip_address(address.partition("%")[0]))
    if (what := never(ip)) is not None:
        return f"{address} is reserved, link-local or a metadata service ({what})"
    if not is_private(ip) or policy.allow_private or any(ip in ip_network(net) for net in policy.allowed_networks):
        return None
    return f"{address} is a private address; UrlPolicy(allow_private=True), or --allow-private, allows them"


def check_literal_address(url: str, policy: UrlPolicy) -> None:
    """Judge the address in a URL that has one instead of a name: for those whose addresses nobody here dials.

    Raises:
        UrlBlockedError: it is refused.
    """
    try:
        address = ip_address((urlsplit(url).hostname or "").removesuffix("."))
    except ValueError:
        return
    if (reason := address_refusal(str(address), policy)) is not None:
        raise blocked(url, reason)


def same_origin(url: str, other: str) -> bool:
    """Whether two URLs have the same scheme, host and port. One that cannot be read is of no origin, not even its own.

    `h` and `h.` are different hosts: a search domain may complete the first.
    """
    try:
        return _origin(url) == _origin(other)
    except ValueError:
        return False


def headers_across(url: str, target: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The caller's own headers that may be sent on to where a redirect leads: to another origin none.

    All are dropped, not a list of known ones: any header may carry a key. Along several redirects each call is given
    what the last one returned, so that what was dropped never comes back, even where the way leads home.

    Args:
        url: the one that redirects.
        target: where it leads.
        headers: what the caller gave and was sent to `url`.
    """
    return dict(headers) if same_origin(url, target) else {}


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL, each in its one spelling.

    Raises:
        ValueError: it is not a URL that may be asked, whatever the policy; says why, and quotes its scheme at most.
    """
    if _BAD_CHARACTERS.search(url):
        raise ValueError("it has white space, control characters or backslashes in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its message would quote credentials
        raise ValueError("its host or port cannot be read") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"its scheme is {parts.scheme!r}, only http and https are downloaded")
    if "@" in parts.netloc:
        raise ValueError("it has credentials in it")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if authority is None:  # urlsplit reads some as a host all the same: "a[b]"
        raise ValueError("its host or port cannot be read")
    if not authority[1] or port == 0:
        raise ValueError("it has no host, or port 0")
    return parts.scheme, _one_spelling(authority[1]), _DEFAULT_PORTS[parts.scheme] if port is None else port


def _one_spelling(host: str) -> str:
    """A host in lower case and ASCII, as httpx will ask for it.

    Args:
        host: a name, an IPv4 address, or an IPv6 address in brackets.

    Raises:
        ValueError: it is none of these, or an IPv4 address in another spelling than four plain numbers.
    """
    if "%" in host:
        raise ValueError("its host is percent-encoded, or has an IPv6 zone")
    if host.startswith("["):
        try:
            return f"[{IPv6Address(host[1:-1])}]"
        except ValueError:
            raise ValueError("its host is in brackets, but not an IPv6 address") from None
    if len(host) > _MAX_HOST_CHARACTERS:
        raise ValueError("its host is longer than a name can be")
    try:
        # Encoded as httpx does it, by IDNA 2008: Python's own codec would read a "ß" as "ss", another host.
        name = host.lower() if host.isascii() else idna.encode(host.lower()).decode("ascii")
    except UnicodeError:
        raise ValueError("its host is not a name in IDNA") from None
    if not _NAME.fullmatch(name):
        raise ValueError("its host has nothing between two dots, or characters that no name has")
    # WHATWG URL, "ends in a number": a host whose last label is a number is an IPv4 address, or nothing.
    if _NUMBER.fullmatch(name.removesuffix(".").rpartition(".")[2]) and not _is_plain_ipv4(host):
        raise ValueError("its host is a number, or an odd spelling of an IPv4 address")
    return name


def _is_plain_ipv4(host: str) -> bool:
    """Whether this is four decimal numbers without leading zeros."""
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_host(name: str, allowed: str) -> bool:
    """Whether a host, in its one spelling and without a dot at its end, is what an entry of `allowed_hosts` means."""
    pattern = _host_pattern(allowed)
    return name.endswith(pattern) if pattern.startswith(".") else name == pattern


def _host_pattern(allowed: str) -> str:
    """An entry of `allowed_hosts` in its one spelling; for `*.example.com`, what its names end in: ".example.com"."""
    below = "." if allowed.startswith("*.") else ""
    host = allowed.removeprefix("*.")
    is_bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    return below + _one_spelling(f"[{host}]" if is_bare_ipv6 else host).removesuffix(".")


def blocked(url: str, reason: str) -> UrlBlockedError:
    """The refusal of a URL."""
    return UrlBlockedError(f"{shown(url)} is not allowed: {reason}", url=shown(url), reason=reason)
