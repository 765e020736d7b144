"""Pure: which addresses are not the public internet, and which hosts are metadata services.

Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries as known in 2026-11, up to RFC 9780: each of their
rows is covered, also those that IANA calls globally reachable, for none is a place to download from. The metadata
services are those that their clouds, or their clients, document by 2026-11. Python's `ipaddress.is_private` and
`is_global` are not used: their tables differ between Python releases.

Not covered: a NAT64 prefix of a network's own (RFC 6052, section 2.2) looks like any public prefix.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address

# A host's own networks: what a policy may open.
_PRIVATE = tuple(
    ip_network(net)
    for net in (
        "10.0.0.0/8",  # RFC 1918, private use
        "100.64.0.0/10",  # RFC 6598, carrier-grade NAT; Tailscale and some clouds put hosts here
        "127.0.0.0/8",  # RFC 1122, loopback
        "172.16.0.0/12",  # RFC 1918, private use
        "192.168.0.0/16",  # RFC 1918, private use
        "198.18.0.0/15",  # RFC 2544, benchmarks
        "::1/128",  # RFC 4291, loopback
        "fc00::/7",  # RFC 4193, unique local
    )
)

# What no policy opens. The first that holds an address names it, so single services stand before their networks.
_NEVER = tuple(
    (ip_network(net), what)
    for net, what in (
        # Metadata services: whoever reaches one may get the machine's credentials.
        ("169.254.169.254/32", "metadata: AWS, Google, Azure, Oracle, IBM, DigitalOcean and more"),  # their own docs
        ("169.254.170.2/32", "metadata: AWS ECS tasks"),  # ECS developer guide, task IAM roles
        ("169.254.170.23/32", "metadata: AWS EKS pods"),  # EKS user guide, Pod Identity Agent
        ("169.254.0.23/32", "metadata: Tencent"),  # metadata.tencentyun.com; datadog-agent asks it by address
        ("169.254.42.42/32", "metadata: Scaleway"),  # cloud-init, Scaleway datasource
        ("100.100.100.200/32", "metadata: Alibaba"),  # ECS user guide, instance metadata; inside CGNAT
        ("100.96.0.96/32", "metadata: Volcano Engine"),  # asked by its own volcengine/cello; inside CGNAT
        ("100.80.80.80/32", "metadata: UCloud"),  # docs.ucloud.cn, UHost metadata server; inside CGNAT
        ("168.63.129.16/32", "metadata: Azure WireServer"),  # Azure docs, "What is IP address 168.63.129.16"; public
        ("192.0.0.192/32", "metadata: Oracle Classic"),  # Compute Classic docs; inside RFC 6890's block
        ("fd00:ec2::/32", "metadata: AWS"),  # EC2 and EKS guides: ::254 IMDS, ::23 pods, ::253 DNS, ::123 time
        ("fd20:ce::254/128", "metadata: Google"),  # Compute Engine docs, IPv6-only instances
        ("fd00:c1::a9fe:a9fe/128", "metadata: Oracle"),  # OCI Python SDK, instance principals
        ("fd00:100::100:200/128", "metadata: Alibaba"),  # cloud-init, AliYun datasource
        ("fd00:a9fe:a9fe::1/128", "metadata: Akamai"),  # cloud-init, Akamai datasource
        ("fd00:42::42/128", "metadata: Scaleway"),  # cloud-init, Scaleway datasource
        # IPv4, from the registry.
        ("0.0.0.0/8", "this network"),  # RFC 791; Linux connects 0.0.0.0 to loopback
        ("169.254.0.0/16", "link-local"),  # RFC 3927; time and name servers of clouds live here, too
        ("192.0.0.0/24", "protocol assignments"),  # RFC 6890
        ("192.0.2.0/24", "documentation"),  # RFC 5737
        ("192.31.196.0/24", "AS112"),  # RFC 7535, a sink for stray questions
        ("192.52.193.0/24", "AMT relays"),  # RFC 7450, tunnels
        ("192.88.99.0/24", "6to4 relays"),  # RFC 7526, deprecated; RFC 6751 has 192.88.99.2
        ("192.175.48.0/24", "AS112"),  # RFC 7534
        ("198.51.100.0/24", "documentation"),  # RFC 5737
        ("203.0.113.0/24", "documentation"),  # RFC 5737
        ("224.0.0.0/4", "multicast"),  # RFC 5771; IANA keeps it in a registry of its own
        ("240.0.0.0/4", "reserved"),  # RFC 1112; with 255.255.255.255, broadcast (RFC 919)
        # IPv6: what is outside 2000::/3 is refused as a whole; these have names, or lie inside.
        ("::/128", "unspecified"),  # RFC 4291; Linux connects it to loopback
        ("::ffff:0:0:0/96", "IPv4-translated"),  # RFC 2765; means whatever a translator nearby makes of it
        ("64:ff9b:1::/48", "local NAT64"),  # RFC 8215; it is made for reaching private IPv4 addresses
        ("100::/64", "discard-only"),  # RFC 6666
        ("100:0:0:1::/64", "dummy prefix"),  # RFC 9780
        ("2001::/32", "Teredo"),  # RFC 4380; leads to any IPv4 address
        ("2001::/23", "protocol assignments"),  # RFC 2928; benchmarks, AMT, AS112, ORCHID, drones, anycast
        ("2001:db8::/32", "documentation"),  # RFC 3849
        ("2002::/16", "6to4"),  # RFC 3056; leads to any IPv4 address
        ("2620:4f:8000::/48", "AS112"),  # RFC 7534
        ("3fff::/20", "documentation"),  # RFC 9637
        ("5f00::/16", "segment routing"),  # RFC 9602
        ("fe80::/10", "link-local"),  # RFC 4291; OpenStack's metadata, fe80::a9fe:a9fe, lives here
        ("fec0::/10", "site-local"),  # RFC 3879, deprecated; some systems still route it
        ("ff00::/8", "multicast"),  # RFC 4291
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")  # RFC 4291 and IANA's IPv6 address space: of the rest nothing is given out
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = IPv6Network("::/96")  # RFC 4291, deprecated; Linux's sit0 still tunnels it to the IPv4 address inside

# Refused by name, too: a proxy resolves where we cannot see it, and some of these have addresses that change.
METADATA_HOSTS = frozenset(
    {
        "metadata.google.internal",  # Google, Compute Engine docs
        "metadata.goog",  # Google, the same
        "metadata",  # Google, the same, by the search domain
        "instance-data.ec2.internal",  # AWS, the name that its own resolver gives to 169.254.169.254
        "instance-data",  # AWS, the same, by the search domain
        "metadata.tencentyun.com",  # Tencent, CVM docs
        "api.metadata.cloud.ibm.com",  # IBM, VPC docs
        "metadata.exoscale.com",  # Exoscale, docs of instance user data
        "metadata.platformequinix.com",  # Equinix Metal docs; a public address
    }
)


def unwrapped(ip: Address) -> Address:
    """The IPv4 address that an IPv4-mapped, IPv4-compatible or NAT64 address leads to; any other as it is."""
    if isinstance(ip, IPv6Address):
        inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.ipv4_mapped is not None or ip in _NAT64:
            return inner
        if ip in _COMPATIBLE and int(inner) > 1:  # 0 and 1 are the unspecified address and loopback of IPv6
            return inner
    return ip


def never(ip: Address) -> str | None:
    """What makes this address one that no policy opens, in a word or two; None if nothing does."""
    for network, what in _NEVER:
        if ip in network:
            return what
    if isinstance(ip, IPv6Address) and ip not in _GLOBAL_V6 and not is_private(ip):
        return "outside 2000::/3"
    return None


def is_private(ip: Address) -> bool:
    """Whether the address is of a host's own networks."""
    return any(ip in network for network in _PRIVATE)
