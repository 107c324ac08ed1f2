"""Which addresses an import may connect to: the hub that the user named, and public ones.

A hub answers with redirects, and whoever controls it could send this machine to its own network: 127.0.0.1, a cloud's
169.254.169.254, a printer. So every hop's name is resolved here, all its addresses must be public, and the
connection goes to the very address that was checked: a name that changes its answer in between gains nothing.
"""

from __future__ import annotations

import socket
from urllib.request import getproxies, proxy_bypass

import httpx2

from zoo.addresses import is_public
from zoo.errors import AccessError

_PORTS = {"http": 80, "https": 443}


class UnsafeAddressError(AccessError):
    """A redirect leads into this machine's own network, or away from encryption."""


class CheckedTransport(httpx2.BaseTransport):
    """Sends requests to the origin of `endpoint` as they are, to others only where the address is public.

    Where the environment names a proxy, the proxy resolves names; then only addresses written as such are checked.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = httpx2.URL(endpoint)
        self._direct = httpx2.HTTPTransport()
        self._proxied = {
            scheme: httpx2.HTTPTransport(proxy=proxy)
            for scheme, proxy in getproxies().items()
            if scheme in _PORTS and proxy.startswith("http")
        }

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends one hop; raises `UnsafeAddressError`."""
        url = request.url
        if _origin(url) == _origin(self._endpoint):
            return self._transport(url).handle_request(request)
        if url.scheme not in _PORTS or (self._endpoint.scheme == "https" and url.scheme != "https"):
            raise UnsafeAddressError(
                f"{self._endpoint.host} redirects to {_shown(url)}, which isn't encrypted; refused"
            )
        transport = self._transport(url)
        if transport is not self._direct:
            _check_literal(url)
            return transport.handle_request(request)
        checked = httpx2.Request(
            request.method,
            url.copy_with(host=public_address(url.host, _port(url))),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": url.host},
        )
        return self._direct.handle_request(checked)

    def close(self) -> None:
        """Closes the connections."""
        for transport in (self._direct, *self._proxied.values()):
            transport.close()

    def _transport(self, url: httpx2.URL) -> httpx2.HTTPTransport:
        return self._direct if proxy_bypass(url.host) else self._proxied.get(url.scheme, self._direct)


def public_address(host: str, port: int) -> str:
    """An address of the host; raises `UnsafeAddressError` unless all of its addresses are public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnsafeAddressError(f"the redirect to {host[:100]!a} can't be followed: {error}") from None
    addresses = [str(item[4][0]) for item in found]
    for address in addresses:
        if not is_public(address):
            raise UnsafeAddressError(
                f"a redirect leads to {host[:100]!a}, which is {address}, an address of this machine's own network; "
                "refused. If that is your hub, set HF_ENDPOINT to it"
            )
    return addresses[0]


def _check_literal(url: httpx2.URL) -> None:
    try:
        public = is_public(url.host)
    except ValueError:
        return
    if not public:
        raise UnsafeAddressError(
            f"a redirect leads to {_shown(url)}, an address of this machine's own network; refused"
        )


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, _port(url)


def _port(url: httpx2.URL) -> int:
    return url.port or _PORTS.get(url.scheme, 0)


def _shown(url: httpx2.URL) -> str:
    return ascii(str(url.copy_with(query=None))[:200])
