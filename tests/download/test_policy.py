"""Which URLs and addresses may be asked. The tables are the registries' once more, not the code's."""

import dataclasses
import itertools
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import httpx
import pytest
from hypothesis import example, given, strategies as st

import memsafe_transcribe as mt
from memsafe_transcribe._download.policy import (
    address_refusal,
    check_literal_address,
    check_url,
    headers_across,
    redirect_target,
    same_origin,
    shown,
)

DEFAULT, ANY = mt.UrlPolicy(), mt.UrlPolicy(allow_private=True)
EVERY_NETWORK = mt.UrlPolicy(allowed_networks=("0.0.0.0/0", "::/0"))
PRIVATE = [
    IPv4Network(net)
    for net in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15")
]
NEVER = [
    IPv4Network(net)
    for net in (
        "0.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
        "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
        "240.0.0.0/4",
    )
]  # fmt: skip
METADATA = [
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.42.42", "100.100.100.200",
    "100.96.0.96", "100.80.80.80", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
    "fd00:c1::a9fe:a9fe", "fd00:100::100:200", "fd00:a9fe:a9fe::1", "fd00:42::42",
]  # fmt: skip
METADATA_HOSTS = [
    "metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal",
    "metadata.tencentyun.com", "api.metadata.cloud.ibm.com", "metadata.exoscale.com", "metadata.platformequinix.com",
]  # fmt: skip
PRIVATE_V6 = [IPv6Network(net) for net in ("::1/128", "fc00::/7")]
NEVER_V6 = [
    IPv6Network(net)
    for net in (
        "::/128", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/32", "2001:2::/48",
        "2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28", "2001::/23", "2001:db8::/32",
        "2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fd00:ec2::/32", "fe80::/10", "fec0::/10",
        "ff00::/8",
    )
]  # fmt: skip
GLOBAL_V6 = IPv6Network("2000::/3")
WRAPPERS = {
    "::ffff:": IPv6Network("::ffff:0:0/96"),
    "64:ff9b::": IPv6Network("64:ff9b::/96"),
    "::": IPv6Network("::/96"),
}


def inside(nets: Sequence[IPv4Network | IPv6Network]) -> st.SearchStrategy[Any]:
    """Addresses out of these nets."""
    return st.sampled_from(nets).flatmap(lambda net: st.ip_addresses(network=net))


def wrappings(address: IPv4Address) -> list[str]:
    """The forms in which a resolver can give an IPv4 address. (::0 and ::1 are addresses of IPv6's own.)"""
    forms = [str(address)]
    for prefix, net in WRAPPERS.items():
        if prefix != "::" or int(address) > 1:
            forms += [str(net[int(address)]), f"{prefix}{address}"]
    return forms


def is_metadata(address: IPv6Address) -> bool:
    """Whether this is one of the IPv6 addresses that stay refused inside private networks."""
    return str(address) in METADATA or address in IPv6Network("fd00:ec2::/32")


@given(inside(PRIVATE + NEVER))
def test_no_listed_ipv4_address_is_allowed(address: IPv4Address) -> None:
    """However it is wrapped."""
    assert [form for form in wrappings(address) if address_refusal(form, DEFAULT) is None] == []


@given(st.ip_addresses(v=4).filter(lambda address: not any(address in net for net in PRIVATE + NEVER)))
def test_every_other_unicast_ipv4_address_is_allowed(address: IPv4Address) -> None:
    """With either policy; also mapped, compatible, and by way of NAT64."""
    assert [address_refusal(form, policy) for form in wrappings(address) for policy in (DEFAULT, ANY)] == [None] * 14


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
    assert [address_refusal(form, ANY) for form in wrappings(address)] == [None] * 7
    assert all("allow_private" in (address_refusal(form, DEFAULT) or "") for form in wrappings(address))


@given(inside(NEVER), st.sampled_from([ANY, EVERY_NETWORK]))
def test_allow_private_opens_nothing_else_of_ipv4(address: IPv4Address, policy: mt.UrlPolicy) -> None:
    """Neither link-local nor reserved addresses, nor do networks; and the refusal does not advise it."""
    refusals = [address_refusal(form, policy) for form in wrappings(address)]
    assert all(refusal and "allow_private" not in refusal for refusal in refusals)


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("policy", [DEFAULT, ANY, EVERY_NETWORK])
def test_metadata_services_are_never_allowed(address: str, policy: mt.UrlPolicy) -> None:
    """Also those inside private ranges, and however they are wrapped; the refusal says what they are."""
    forms = [address] if ":" in address else wrappings(IPv4Address(address))
    assert all("(metadata: " in (address_refusal(form, policy) or "") for form in forms)


@given(inside(PRIVATE_V6).filter(lambda address: not is_metadata(address)))
def test_allow_private_opens_private_ipv6(address: IPv6Address) -> None:
    """Loopback and unique local addresses; so does naming the network."""
    assert address_refusal(str(address), DEFAULT) is not None
    assert address_refusal(str(address), ANY) is None
    assert address_refusal(str(address), EVERY_NETWORK) is None


@given(inside(NEVER_V6), st.sampled_from(["", "%lo", "%1"]), st.sampled_from([DEFAULT, ANY, EVERY_NETWORK]))
def test_no_listed_ipv6_address_is_ever_allowed(address: IPv6Address, zone: str, policy: mt.UrlPolicy) -> None:
    """With any policy, with a zone and without."""
    refusal = address_refusal(f"{address}{zone}", policy)
    assert refusal is not None
    assert "allow_private" not in refusal


@pytest.mark.parametrize("net", NEVER_V6, ids=str)
def test_ipv6_nets_are_refused_from_their_first_address_to_their_last(net: IPv6Network) -> None:
    """And their neighbours only if another rule refuses them."""
    assert address_refusal(str(net[0]), ANY) is not None
    assert address_refusal(str(net[-1]), ANY) is not None
    for number in (int(net[0]) - 1, int(net[-1]) + 1):
        if 0 <= number < 2**128 and not any(IPv6Address(number) in other for other in NEVER_V6):
            address = IPv6Address(number)
            public = address in GLOBAL_V6 or any(address in other for other in PRIVATE_V6)
            assert (address_refusal(str(address), ANY) is None) == public, address


@given(inside([GLOBAL_V6]).filter(lambda address: not any(address in net for net in NEVER_V6)))
def test_every_other_global_ipv6_address_is_allowed(address: IPv6Address) -> None:
    """2000::/3 is what IANA gives out."""
    assert address_refusal(str(address), DEFAULT) is None


@given(inside([IPv6Network("::/0")]).filter(lambda address: address not in GLOBAL_V6))
def test_ipv6_outside_the_global_range_is_refused(address: IPv6Address) -> None:
    """Unless it leads to an IPv4 address, which is judged by itself."""
    if not any(address in net for net in WRAPPERS.values()):
        assert address_refusal(str(address), DEFAULT) is not None
        opened = address in IPv6Network("fc00::/7") and not is_metadata(address)
        assert (address_refusal(str(address), ANY) is None) == opened


def test_an_allowed_network_opens_itself_only() -> None:
    """Also for the wrapped forms of its addresses; its neighbours stay as they were."""
    policy = mt.UrlPolicy(allowed_networks=("10.1.0.0/16", "fd12:3456::/32", "192.168.7.7"))
    opened = ["10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd12:3456::1", "192.168.7.7"]
    closed = ["10.0.255.255", "10.2.0.0", "127.0.0.1", "::1", "fd12:3457::", "192.168.7.8", "::ffff:10.2.0.0"]
    assert [address_refusal(address, policy) for address in opened] == [None] * len(opened)
    assert [address for address in closed if address_refusal(address, policy) is None] == []
    assert address_refusal("8.8.8.8", policy) is None


@given(st.text() | st.text(alphabet="htps:/@[]%.\\?#0x1 \t\n\x00a\u2100\ud800ß。").map(lambda text: f"http:{text}"))
def test_any_text_is_judged_without_another_error(text: str) -> None:
    """A URL comes from strangers: it passes, or it is refused; what is shown of it can be printed."""
    with suppress(mt.UrlBlockedError):
        check_url(text)
    assert shown(text).isprintable()


@given(st.text(alphabet="aA0.:[]x-_%ß。é@1/?#", max_size=12))
@example("a.")
@example("1.2.3.4")
@example("[::FFFF:1.2.3.4]:80")
@example("a:443")
@example("Ba\u00df.\u00e9")
def test_what_is_judged_is_what_httpx_asks_for(authority: str) -> None:
    """A URL that passes also passes where nothing is allowed but the host and port that httpx takes from it."""
    url = f"http://{authority}"
    try:
        check_url(url)
        asked = httpx.URL(url)
    except (mt.UrlBlockedError, httpx.InvalidURL):
        return
    check_url(url, mt.UrlPolicy(allowed_hosts=(asked.raw_host.decode(),), allowed_ports=(asked.port or 80,)))


@pytest.mark.parametrize(
    ("url", "display"),
    [
        ("https://h:8443/a/b.mp3?key=secret#part", "https://h:8443/a/b.mp3"),
        ("http://user:secret@h/a", "http://h/a"),
        ("http://a@b:secret@h/a", "http://h/a"),
        ("http://h/a\u202e\x07b", "http://h/a\\x202e\\x07b"),
        ("http://b\u00fccher.example/\u00e9", "http://b\u00fccher.example/\u00e9"),
        ("http:/secret", "(unreadable URL)"),
        ("http:///secret", "(unreadable URL)"),
        ("http://user:secret@/a", "(unreadable URL)"),
        ("http://h:secret/a", "(unreadable URL)"),
        ("http://[secret/a", "(unreadable URL)"),
    ],
)
def test_of_a_url_neither_query_nor_credentials_are_shown(url: str, display: str) -> None:
    """Nor what may be a password; what cannot be printed is written in numbers. A refusal names the URL like this."""
    assert shown(url) == display
    with pytest.raises(mt.UrlBlockedError) as caught:
        check_url(url, mt.UrlPolicy(allowed_hosts=()))
    assert caught.value.url == display
    assert caught.value.reason and caught.value.reason in str(caught.value)
    assert str(caught.value).startswith(f"{display} is not allowed: ")


@pytest.mark.parametrize("template", ["http://h{}/", "http://h/{}x", "{}http://h/", "http://h/{}", "ht{}tp://h/"])
def test_characters_that_parsers_disagree_about_are_refused(template: str) -> None:
    """Anywhere in a URL, also where urllib would take them away."""
    for character in (*map(chr, range(0x21)), "\x7f", "\\"):
        with pytest.raises(mt.UrlBlockedError, match="white space, control characters or backslashes"):
            check_url(template.format(character))


@pytest.mark.parametrize(
    "url",
    [
        "http://h/", "https://h", "HTTPS://h:8443/a?b#c", "http://[2606:4700::1111]/", "http://é.fr/", "http://h./",
        "http://h:/", "http://127.0.0.1/", "http://[::1]:80/", "http://my_bucket.s3-eu.amazonaws.com/a@b:c[d]",
        "http://0x7f.1.example/", "http://1e5/", "http://xn--9ca.fr/", f"http://{'a.' * 126}aa/", "http://localhost/",
    ],
)  # fmt: skip
def test_ordinary_urls_pass(url: str) -> None:
    """http and https, whatever the case; private addresses and localhost, too, which are judged when resolved."""
    check_url(url)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f.1", "0X7F000001", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0", "0x", "1.2.3.4.5",
        "256.0.0.1", "127.0.0.1.", "127.0.0.01", "127.0.0.0x1", "a.b.1", "foo.0", "bar.0.09", "a.0x", "0x7f.0x1.",
        "127\u30020\u30020\u30021", "127.0.0\uff0e1", "\u2460\u2461\u2466.0.0.1", "\uff11\uff12\uff17.0.0.1",
        "0x7f\u30021",
    ],
)  # fmt: skip
def test_odd_spellings_of_ipv4_addresses_are_refused(host: str) -> None:
    """In the text, before any resolver has its own idea of them, and where private addresses are allowed, too."""
    for url in (f"http://{host}/", f"https://{host}:8443/a"):
        with pytest.raises(mt.UrlBlockedError, match=r"odd spelling|not a name"):
            check_url(url, ANY)


@given(st.lists(st.integers(0, 2**32).flatmap(lambda n: st.sampled_from([str(n), hex(n), f"0{n:o}"])), min_size=1))
def test_no_row_of_numbers_is_a_host(numbers: list[str]) -> None:
    """Unless it is four that are written plainly."""
    host = ".".join(numbers)
    try:
        plain = str(IPv4Address(host)) == host
    except ValueError:
        plain = False
    try:
        check_url(f"http://{host}/", ANY)
    except mt.UrlBlockedError:
        assert not plain
    else:
        assert plain


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://h/", "scheme"),
        ("h/a", "scheme"),
        ("//h/a", "scheme"),
        ("http:", "no host"),
        ("http:///a", "no host"),
        ("http://:80/", "no host"),
        ("http://h:0/", "port 0"),
        ("http://h:65536/", "cannot be read"),
        ("http://h:x/", "cannot be read"),
        ("http://h:80:80/", "cannot be read"),
        ("http://h:\u0661/", "cannot be read"),
        ("http://[::1/", "cannot be read"),
        ("http://::1/", "cannot be read"),
        ("http://h[::1]/", "cannot be read"),
        ("http://[::1]h/", "cannot be read"),
        ("http://[::1][::1]/", "cannot be read"),
        ("http://[::ffff:1.2.3]/", "not an IPv6|cannot be read"),
        ("http://[v1.x]/", "not an IPv6"),
        ("http://[]/", "not an IPv6|cannot be read"),
        ("http://[fe80::1%25eth0]/", "IPv6 zone"),
        ("http://[fe80::1%eth0]/", "IPv6 zone"),
        ("http://%31%32%37.0.0.1/", "percent-encoded"),
        ("http://user@h/", "credentials"),
        ("http://:@h/", "credentials"),
        ("http://@h/", "credentials"),
        ("http://h\u2100x/", "cannot be read"),
        ("http://\ud800/", "IDNA"),
        ("http://\u2665-\u00e9..fr/", "IDNA"),
        ("http://.h/", "no name has"),
        ("http://h..i/", "no name has"),
        ("http://./", "no name has"),
        ("http://h;i/", "no name has"),
        ("http://h<i/", "no name has"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused(url: str, reason: str) -> None:
    """With a reason that quotes neither credentials nor path."""
    with pytest.raises(mt.UrlBlockedError, match=reason) as caught:
        check_url(url, ANY)
    assert "user" not in caught.value.reason


@pytest.mark.parametrize("host", ["a." * 126 + "aaa", "\u00e9" * 60_000, "\u00e9." * 60_000], ids=["a", "b", "c"])
def test_a_host_that_is_longer_than_a_name_is_refused(host: str) -> None:
    """Before it is encoded, which takes time in the square of its length."""
    with pytest.raises(mt.UrlBlockedError, match="longer"):
        check_url(f"http://{host}/")


@pytest.mark.parametrize("host", METADATA_HOSTS)
def test_metadata_services_are_refused_by_name(host: str) -> None:
    """With every policy, in every case, with a dot at the end; names around them are names like any."""
    for policy in (DEFAULT, ANY, EVERY_NETWORK, mt.UrlPolicy(allowed_hosts=(host,))):
        for form in (host, host.upper(), f"{host}."):
            with pytest.raises(mt.UrlBlockedError, match="metadata service"):
                check_url(f"http://{form}/", policy)
            with pytest.raises(mt.UrlBlockedError, match="metadata service"):
                redirect_target("http://h/", f"//{form}:80/", policy)
    check_url(f"http://{host}.example/")
    check_url(f"http://my-{host}/")


@pytest.mark.parametrize(
    ("allowed", "inside_it", "outside_it"),
    [
        (
            "example.com",
            ["example.com", "EXAMPLE.com", "example.com."],
            ["a.example.com", "example.co", "xexample.com"],
        ),
        ("Example.COM.", ["example.com", "example.com."], ["example.com.x"]),
        (
            "*.example.com",
            ["a.example.com", "a.b.EXAMPLE.com."],
            ["example.com", "aexample.com", "example.com.a", "com"],
        ),
        ("*.B\u00fccher.example", ["a.b\u00fccher.example", "a.xn--bcher-kva.example"], ["b\u00fccher.example"]),
        ("xn--bcher-kva.example", ["b\u00fccher.example", "B\u00dcCHER.example"], ["bucher.example"]),
        ("fass.de", ["fass.de"], ["fa\u00df.de"]),
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.2", "localhost", "[::1]", "[::ffff:127.0.0.1]"]),
        ("2606:4700:0::1111", ["[2606:4700::1111]", "[2606:4700:0:0::1111]"], ["[2606:4700::1112]"]),
        ("[2606:4700::1111]", ["[2606:4700::1111]"], ["1.1.1.1"]),
    ],
)
def test_only_allowed_hosts_pass(allowed: str, inside_it: list[str], outside_it: list[str]) -> None:
    """By name or literal address, however both are written; in a redirect, too."""
    for policy in (mt.UrlPolicy(allowed_hosts=(allowed,)), mt.UrlPolicy(allowed_hosts=("other.test", allowed))):
        for host in inside_it:
            check_url(f"http://{host}:8080/", policy)
            assert redirect_target("http://x.test/", f"//{host}/", policy) == f"http://{host}/"
        for host in outside_it:
            with pytest.raises(mt.UrlBlockedError, match="allowed_hosts"):
                check_url(f"http://{host}/", policy)
            with pytest.raises(mt.UrlBlockedError, match="allowed_hosts"):
                redirect_target("http://example.com/", f"//{host}/", policy)


def test_an_empty_list_allows_nothing() -> None:
    """It is not the same as none."""
    for policy in (mt.UrlPolicy(allowed_hosts=()), mt.UrlPolicy(allowed_ports=())):
        with pytest.raises(mt.UrlBlockedError):
            check_url("http://h/", policy)


def test_only_allowed_ports_pass() -> None:
    """The scheme's own where the URL names none; for literal addresses and redirects, too."""
    policy = mt.UrlPolicy(allowed_ports=(443, 8080))
    for url in (
        "https://h/",
        "https://h:/",
        "http://h:443/",
        "http://h:8080/",
        "https://[::1]:8080/",
        "https://127.0.0.1/",
    ):
        check_url(url, policy)
        assert redirect_target("http://h/", url, policy) == url
    for url in ("http://h/", "https://h:80/", "http://h:08081/", "http://[::1]/", "http://127.0.0.1/"):
        with pytest.raises(mt.UrlBlockedError, match="allowed_ports"):
            check_url(url, policy)
        with pytest.raises(mt.UrlBlockedError, match="allowed_ports"):
            redirect_target("http://h/", url, policy)


def test_a_list_of_hosts_opens_no_address() -> None:
    """A host on it may still not resolve to a private address, nor be one."""
    policy = mt.UrlPolicy(allowed_hosts=("127.0.0.1", "h"), allowed_ports=(80,))
    assert address_refusal("127.0.0.1", policy) is not None


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"allow_private": "false"}, TypeError, "allow_private.*'false'"),
        ({"allow_private": 1}, TypeError, "allow_private.*1"),
        ({"allowed_hosts": "h"}, TypeError, "allowed_hosts.*'h'"),
        ({"allowed_hosts": ""}, TypeError, "allowed_hosts.*''"),
        ({"allowed_hosts": ["h"]}, TypeError, "allowed_hosts.*'h'"),
        ({"allowed_hosts": (b"h",)}, TypeError, "allowed_hosts.*b'h'"),
        ({"allowed_hosts": ("",)}, ValueError, "allowed_hosts.*''"),
        ({"allowed_hosts": ("h", "*")}, ValueError, "allowed_hosts.*'\\*'"),
        ({"allowed_hosts": ("*.",)}, ValueError, "allowed_hosts.*'\\*\\.'"),
        ({"allowed_hosts": ("a.*.b",)}, ValueError, "allowed_hosts.*'a\\.\\*\\.b'"),
        ({"allowed_hosts": ("http://h",)}, ValueError, "allowed_hosts.*'http://h'"),
        ({"allowed_hosts": ("h:80",)}, ValueError, "allowed_hosts.*'h:80'"),
        ({"allowed_hosts": ("h/",)}, ValueError, "allowed_hosts.*'h/'"),
        ({"allowed_hosts": ("a b",)}, ValueError, "allowed_hosts.*'a b'"),
        ({"allowed_hosts": ("10.0.0.0/8",)}, ValueError, "allowed_hosts.*'10.0.0.0/8'"),
        ({"allowed_hosts": ("127.1",)}, ValueError, "allowed_hosts.*'127.1'"),
        ({"allowed_hosts": ("fe80::1%lo",)}, ValueError, "allowed_hosts.*'fe80::1%lo'"),
        ({"allowed_hosts": ("[::1",)}, ValueError, "allowed_hosts.*'\\[::1'"),
        ({"allowed_ports": 80}, TypeError, "allowed_ports.*80"),
        ({"allowed_ports": 0}, TypeError, "allowed_ports.*0"),
        ({"allowed_ports": (True,)}, TypeError, "allowed_ports.*True"),
        ({"allowed_ports": ("80",)}, TypeError, "allowed_ports.*'80'"),
        ({"allowed_ports": (80, 0)}, ValueError, "allowed_ports.*0"),
        ({"allowed_ports": (65536,)}, ValueError, "allowed_ports.*65536"),
        ({"allowed_networks": None}, TypeError, "allowed_networks.*None"),
        ({"allowed_networks": "10.0.0.0/8"}, TypeError, "allowed_networks.*'10.0.0.0/8'"),
        ({"allowed_networks": (10,)}, TypeError, "allowed_networks.*10"),
        ({"allowed_networks": ("10.0.0.1/8",)}, ValueError, "allowed_networks.*10.0.0.1/8"),
        ({"allowed_networks": ("h",)}, ValueError, "allowed_networks.*'h'"),
        ({"allowed_networks": ("10.0.0.0/33",)}, ValueError, "allowed_networks.*10.0.0.0/33"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_at_once(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The message names the field and the value: a policy is often read from the environment."""
    with pytest.raises(error, match=message):
        mt.UrlPolicy(**settings)


def test_a_policy_is_a_value() -> None:
    """Frozen, comparable, and fit to be a key."""
    policy = mt.UrlPolicy(allowed_hosts=("h",), allowed_ports=(1, 65535), allowed_networks=("10.0.0.0/8",))
    assert len({policy, dataclasses.replace(policy), mt.UrlPolicy()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.allow_private = True  # type: ignore[misc]


def test_https_may_not_become_http() -> None:
    """Any other change of scheme between the two may be."""
    for location in ("http://h/", "HTTP://g/"):
        with pytest.raises(mt.UrlBlockedError, match="https to http"):
            redirect_target("https://h/", location)
    assert redirect_target("http://h/", "https://h/") == "https://h/"
    assert redirect_target("https://h/a", "//g/b") == "https://g/b"
    assert redirect_target("https://h/a", "b") == "https://h/b"


@pytest.mark.parametrize(
    "location",
    ["//[", "http://[x/", "//127.1/", "//u@h/", "ftp://h/", "//h:0/", "//metadata/", "//[fe80::1%25lo]/", "/a\\b"],
)
def test_a_redirect_to_what_is_refused_by_itself_is_refused(location: str) -> None:
    """Whether it can be joined to the URL that it comes from or not; with a reason."""
    with pytest.raises(mt.UrlBlockedError) as caught:
        redirect_target("http://h/a", location)
    assert " " in caught.value.reason


def test_blanks_in_a_redirect_are_encoded() -> None:
    """Servers forget it."""
    assert redirect_target("http://h/a", "/b c d?e f") == "http://h/b%20c%20d?e%20f"


@given(st.text())
def test_any_redirect_is_judged_without_another_error(location: str) -> None:
    """What passes is a URL that passes by itself."""
    try:
        target = redirect_target("http://h/a", location)
    except mt.UrlBlockedError:
        return
    check_url(target)


SAME = [
    ("http://h/a?b", "http://h/c#d"),
    ("http://h", "HTTP://H:80/"),
    ("https://h:443/", "https://h:/"),
    ("https://b\u00fccher.example/", "https://xn--bcher-kva.example/"),
    ("http://[::1]/", "http://[0:0::1]:80/"),
]
OTHER = [
    ("http://h/", "https://h/"),
    ("http://h:443/", "https://h:443/"),
    ("http://h/", "http://h:8080/"),
    ("http://h/", "http://a.h/"),
    ("http://h/", "http://h./"),
    ("http://127.0.0.1/", "http://[::ffff:127.0.0.1]/"),
    ("http://fa\u00df.de/", "http://fass.de/"),
    ("http://h/", "http://h:x/"),
    ("http://h/", "http://u@h/"),
    ("http://[/", "http://[/"),
]
HEADERS = {"Authorization": "Bearer x", "cookie": "a=b", "X-Api-Key": "k", "Accept-Language": "en"}


@pytest.mark.parametrize(("url", "other"), SAME)
def test_the_callers_headers_stay_within_their_origin(url: str, other: str) -> None:
    """Scheme, host and port in any spelling; what is given back is a copy."""
    assert same_origin(url, other) and same_origin(other, url)
    kept = headers_across(url, other, HEADERS)
    assert kept == HEADERS and kept is not HEADERS


@pytest.mark.parametrize(("url", "other"), OTHER)
def test_all_of_the_callers_headers_are_dropped_at_another_origin(url: str, other: str) -> None:
    """Not only those that are known to be secret; a URL that cannot be read gets none, either."""
    assert not same_origin(url, other)
    assert not same_origin(other, url)
    assert headers_across(url, other, HEADERS) == headers_across(other, url, HEADERS) == {}


@given(st.lists(st.sampled_from([url for pair in SAME + OTHER for url in pair]), min_size=2, max_size=6))
def test_headers_that_were_dropped_never_come_back(way: list[str]) -> None:
    """They arrive only where the whole way was within one origin."""
    headers = HEADERS
    for url, target in itertools.pairwise(way):
        headers = headers_across(url, target, headers)
    assert headers == (HEADERS if all(same_origin(way[0], url) for url in way) else {})


@given(st.text(), st.text())
def test_any_two_texts_have_an_origin_or_none(url: str, other: str) -> None:
    """Without an error, and the same in both directions."""
    assert same_origin(url, other) == same_origin(other, url)


@pytest.mark.parametrize(
    ("host", "policy", "is_refused"),
    [
        ("169.254.169.254", ANY, True),
        ("[fd00:ec2::254]", ANY, True),
        ("[::ffff:169.254.169.254]", ANY, True),
        ("10.0.0.1", DEFAULT, True),
        ("10.0.0.1.", DEFAULT, True),
        ("10.0.0.1", ANY, False),
        ("93.184.215.14", DEFAULT, False),
        ("proxied.test", DEFAULT, False),  # whoever resolves it has to judge it
        ("[::1", DEFAULT, False),  # no URL at all: that is for check_url
    ],
)
def test_an_address_in_a_url_is_judged_where_nobody_here_dials_it(
    host: str, policy: mt.UrlPolicy, is_refused: bool
) -> None:
    """By the rules for what a name resolves to; a name itself is not."""
    if is_refused:
        with pytest.raises(mt.UrlBlockedError, match=r"is not allowed: .* is a private address|is reserved"):
            check_literal_address(f"http://{host}:8080/a", policy)
    else:
        check_literal_address(f"http://{host}:8080/a", policy)
