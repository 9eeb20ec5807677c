"""What addresses say: whose a caller's is, and who reaches one that is listened on."""

import ipaddress
from functools import lru_cache
from urllib.parse import unquote

IPV6_SITE_BITS = 64
"""One site has all addresses of such a network, and could else call from each."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host to listen on."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=4096)
def network_of(peer: str) -> str:
    """Return the address in gRPC's name of a peer, without its port; of IPv6 the network."""
    kind, _, place = unquote(peer).partition(":")
    host = place.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return kind  # a socket file, say: of this machine
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_SITE_BITS), strict=False))
