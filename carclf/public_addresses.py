"""Addresses that a response may send this machine to: redirects of downloads, and URLs for uploads."""

import ipaddress
import socket

from urllib3.util import parse_url

from carclf.errors import ConfigError

# A network may resolve these to private addresses of its own (Google's Private Service Connect).
TRUSTED_DOMAINS = (".kaggle.com", ".googleapis.com")


def require_public_address(url: str, endpoint: str, variable: str) -> None:
    """Raise ConfigError if a URL from a response leads into a private network, or from HTTPS to HTTP.

    ``variable`` is the environment variable that may contain the endpoint.

    Otherwise a forged response could make this machine read or write a service that only its network can reach, such
    as the metadata server of a cloud. The endpoint itself may be private: a demo server, or a mirror.
    """
    target, origin = parse_url(url), parse_url(endpoint)
    if (target.scheme, target.netloc) == (origin.scheme, origin.netloc):
        return
    host = (target.host or "").strip("[]").partition("%")[0]  # without the zone of a link-local address
    if target.scheme == "https" and f".{host}".endswith(TRUSTED_DOMAINS):
        return
    is_downgrade = origin.scheme == "https" and target.scheme != "https"
    if is_downgrade or not all(_is_public(address) for address in _resolve(host)):
        raise ConfigError(f"The server at {endpoint} leads to {target.scheme}://{target.netloc}, which is a private "
                          f"address or is not encrypted. Nothing was sent there. Check {variable} and the proxy; a "
                          "mirror must serve its files from its own address.")


def _resolve(host: str) -> list[str]:
    """Return the host's addresses; none if this machine cannot resolve it, which then only a proxy can reach."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return []


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_global
