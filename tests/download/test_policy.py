"""Which URLs and addresses may be asked. The tables are the registries' once more, not the code's."""

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._download.policy import address_refusal, check_url, redirect_target, shown

DEFAULT, ANY = mt.UrlPolicy(), mt.UrlPolicy(allow_private=True)
PRIVATE = [
    IPv4Network(net)
    for net in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15")
]
NEVER = [
    IPv4Network(net)
    for net in (
        "0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
METADATA = ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "192.0.0.192"]
PRIVATE_V6 = [IPv6Network(net) for net in ("::1/128", "fc00::/7")]
NEVER_V6 = [
    IPv6Network(net)
    for net in (
        "::/128", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16",
        "fe80::/10", "fec0::/10", "ff00::/8",
    )
]  # fmt: skip
GLOBAL_V6 = IPv6Network("2000::/3")


def inside(nets: Sequence[IPv4Network | IPv6Network]) -> st.SearchStrategy[Any]:
    """Addresses out of these nets."""
    return st.sampled_from(nets).flatmap(lambda net: st.ip_addresses(network=net))


def wrappings(address: IPv4Address) -> list[str]:
    """The forms in which a resolver can give an IPv4 address."""
    return [
        str(address),
        str(IPv6Address(int(IPv6Address("::ffff:0:0")) + int(address))),
        f"::ffff:{address}",
        str(IPv6Address(int(IPv6Address("64:ff9b::")) + int(address))),
        f"64:ff9b::{address}",
    ]


@given(inside(PRIVATE + NEVER))
def test_no_listed_ipv4_address_is_allowed(address: IPv4Address) -> None:
    """However it is wrapped."""
    assert [form for form in wrappings(address) if address_refusal(form, DEFAULT) is None] == []


@given(st.ip_addresses(v=4).filter(lambda address: not any(address in net for net in PRIVATE + NEVER)))
def test_every_other_unicast_ipv4_address_is_allowed(address: IPv4Address) -> None:
    """With either policy; also mapped, and by way of NAT64."""
    assert [address_refusal(form, policy) for form in wrappings(address) for policy in (DEFAULT, ANY)] == [None] * 10


@pytest.mark.parametrize("net", PRIVATE + NEVER, ids=str)
def test_nets_are_refused_from_their_first_address_to_their_last(net: IPv4Network) -> None:
    """And their neighbours are allowed, unless they are in a net of their own."""
    first, last = int(net.network_address), int(net.broadcast_address)
    for number in (first - 1, first, last, last + 1):
        if 0 <= number < 2**32:
            address = IPv4Address(number)
            listed = any(address in other for other in PRIVATE + NEVER)
            assert (address_refusal(str(address), DEFAULT) is not None) == listed, address


@given(inside(PRIVATE).filter(lambda address: str(address) not in METADATA))
def test_allow_private_opens_private_ipv4(address: IPv4Address) -> None:
    """And the refusal without it names it."""
    assert [address_refusal(form, ANY) for form in wrappings(address)] == [None] * 5
    assert all("allow_private" in (address_refusal(form, DEFAULT) or "") for form in wrappings(address))


@given(inside(NEVER))
def test_allow_private_opens_nothing_else_of_ipv4(address: IPv4Address) -> None:
    """Neither link-local nor reserved addresses; and the refusal does not advise it."""
    refusals = [address_refusal(form, ANY) for form in wrappings(address)]
    assert all(refusal and "allow_private" not in refusal for refusal in refusals)


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("policy", [DEFAULT, ANY])
def test_metadata_services_are_never_allowed(address: str, policy: mt.UrlPolicy) -> None:
    """Also those inside private ranges, and however they are wrapped."""
    forms = [address] if ":" in address else wrappings(IPv4Address(address))
    assert all(address_refusal(form, policy) for form in forms)


@given(inside(PRIVATE_V6).filter(lambda address: str(address) not in METADATA))
def test_allow_private_opens_private_ipv6(address: IPv6Address) -> None:
    """Loopback and unique local addresses."""
    assert address_refusal(str(address), DEFAULT) is not None
    assert address_refusal(str(address), ANY) is None


@given(inside(NEVER_V6), st.sampled_from(["", "%lo", "%1"]))
def test_no_listed_ipv6_address_is_ever_allowed(address: IPv6Address, zone: str) -> None:
    """With either policy, with a zone and without."""
    assert address_refusal(f"{address}{zone}", DEFAULT) is not None
    assert address_refusal(f"{address}{zone}", ANY) is not None


@given(inside([GLOBAL_V6]).filter(lambda address: not any(address in net for net in NEVER_V6)))
def test_every_other_global_ipv6_address_is_allowed(address: IPv6Address) -> None:
    """2000::/3 is what IANA gives out."""
    assert address_refusal(str(address), DEFAULT) is None


@given(inside([IPv6Network("::/0")]).filter(lambda address: address not in GLOBAL_V6))
def test_ipv6_outside_the_global_range_is_refused(address: IPv6Address) -> None:
    """Unless it leads to an IPv4 address, which is judged by itself."""
    if address.ipv4_mapped is None and address not in IPv6Network("64:ff9b::/96"):
        assert address_refusal(str(address), DEFAULT) is not None


@given(st.text() | st.text(alphabet="htps:/@[]%.\\?#0x1 \t\n\x00a\u2100\ud800").map(lambda text: f"http:{text}"))
def test_any_text_is_judged_without_another_error(text: str) -> None:
    """A URL comes from strangers: it passes, or it is refused; what is shown of it can be printed."""
    with suppress(mt.UrlBlockedError):
        check_url(text)
    assert shown(text).isprintable()


@pytest.mark.parametrize("template", ["http://h{}/", "http://h/{}x", "{}http://h/", "http://h/{}", "ht{}tp://h/"])
def test_characters_that_parsers_disagree_about_are_refused(template: str) -> None:
    """Anywhere in a URL, also where urllib would take them away."""
    for character in (*map(chr, range(0x21)), "\x7f", "\\"):
        with pytest.raises(mt.UrlBlockedError):
            check_url(template.format(character))


@pytest.mark.parametrize(
    "url", ["http://h/", "https://h", "HTTPS://h:8443/a?b#c", "http://[2606:4700::1111]/", "http://é.fr/"]
)
def test_ordinary_urls_pass(url: str) -> None:
    """http and https, whatever the case."""
    check_url(url)


def test_https_may_not_become_http() -> None:
    """Any other change of scheme between the two may be."""
    for location in ("http://h/", "HTTP://g/"):
        with pytest.raises(mt.UrlBlockedError, match="https to http"):
            redirect_target("https://h/", location)
    assert redirect_target("http://h/", "https://h/") == "https://h/"
    assert redirect_target("https://h/a", "//g/b") == "https://g/b"
    assert redirect_target("https://h/a", "b") == "https://h/b"


@given(st.text())
def test_any_redirect_is_judged_without_another_error(location: str) -> None:
    """What passes is a URL that passes by itself."""
    try:
        target = redirect_target("http://h/a", location)
    except mt.UrlBlockedError:
        return
    check_url(target)
