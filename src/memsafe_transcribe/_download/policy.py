"""Pure: which URL and which address may be asked.

Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries as of 2026-11. Python's `ipaddress.is_private` and
`is_global` are not used: their tables differ between Python releases.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urljoin, urlsplit

from .._errors import UrlBlockedError

_ADDRESSES = IPv4Address | IPv6Address

# A host's own networks: opened by `allow_private`.
_PRIVATE_V4 = tuple(
    IPv4Network(net)
    for net in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15")
)
_PRIVATE_V6 = tuple(IPv6Network(net) for net in ("::1/128", "fc00::/7"))

# Never a place to download from: this network, link-local (cloud metadata lives there), protocol assignments,
# documentation, relay anycast, multicast, reserved.
_NEVER_V4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
# Of IPv6 only 2000::/3 is public, and in it not: protocol assignments with Teredo, documentation, 6to4.
_GLOBAL_V6 = IPv6Network("2000::/3")
_NEVER_V6 = tuple(IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")

# fd00:ec2::254 and 100.100.100.200 are metadata services inside private ranges.
_METADATA = frozenset({IPv6Address("fd00:ec2::254"), IPv4Address("100.100.100.200")})

_BAD_CHARACTERS = re.compile(r"[\x00-\x20\x7f\\]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNREADABLE = "(unreadable URL)"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlPolicy:
    """What may be downloaded from.

    Attributes:
        allow_private: also from this machine and private networks: for tests and intranets. Link-local addresses and
            cloud metadata services stay refused.
    """

    allow_private: bool = False


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


def check_url(url: str) -> None:
    """Judge the text of a URL; its host's addresses are judged when they are known.

    Raises:
        UrlBlockedError: not http or https, no host, credentials in it, or characters that parsers disagree about.
    """
    if _BAD_CHARACTERS.search(url):
        raise blocked(url, "it has white space, control characters or backslashes in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its message would quote credentials
        raise blocked(url, "its host or port cannot be read") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise blocked(url, f"its scheme is {parts.scheme!r}, only http and https are downloaded")
    if parts.username is not None or parts.password is not None:
        raise blocked(url, "it has credentials in it")
    if not parts.hostname or port == 0:
        raise blocked(url, "it has no host, or port 0")
    if "%" in parts.hostname:
        raise blocked(url, "its host is percent-encoded, or has an IPv6 zone")


def redirect_target(url: str, location: str) -> str:
    """Where a redirect leads, judged like any URL.

    Args:
        url: the one that redirects.
        location: as the server wrote it, perhaps relative. Blanks in it are common, and are encoded.

    Raises:
        UrlBlockedError: the target is refused, or leads from https to http.
    """
    try:
        target = urljoin(url, location.replace(" ", "%20"))
    except ValueError:
        raise blocked(location, "its host cannot be read") from None
    check_url(target)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise blocked(target, "a redirect leads from https to http")
    return target


def address_refusal(address: str, policy: UrlPolicy) -> str | None:
    """Why this address may not be connected to; None if it may.

    Args:
        address: as the resolver gives it, perhaps with an IPv6 zone.
        policy: what is allowed besides public addresses.
    """
    ip = _unwrapped(ip_address(address.partition("%")[0]))
    if ip in _METADATA or _is_never(ip):
        return f"{address} is reserved, link-local or a metadata service"
    if _is_private(ip) and not policy.allow_private:
        return f"{address} is a private address; UrlPolicy(allow_private=True), or --allow-private, allows them"
    return None


def _unwrapped(ip: _ADDRESSES) -> _ADDRESSES:
    """The IPv4 address that an IPv4-mapped or NAT64 address leads to."""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in _NAT64:
            return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def _is_private(ip: _ADDRESSES) -> bool:
    if isinstance(ip, IPv4Address):
        return any(ip in net for net in _PRIVATE_V4)
    return any(ip in net for net in _PRIVATE_V6)


def _is_never(ip: _ADDRESSES) -> bool:
    if isinstance(ip, IPv4Address):
        return any(ip in net for net in _NEVER_V4)
    return not _is_private(ip) and (ip not in _GLOBAL_V6 or any(ip in net for net in _NEVER_V6))


def blocked(url: str, reason: str) -> UrlBlockedError:
    """The refusal of a URL."""
    return UrlBlockedError(f"{shown(url)} is not allowed: {reason}", url=shown(url), reason=reason)
