"""`Fetcher`: downloads media, only from hosts that the operator allows."""

import asyncio
import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from urllib.parse import SplitResult, urljoin, urlsplit

from mirasol.serve.errors import ApiError
from mirasol.serve.limits import Limits
from mirasol.serve.service import too_large

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
BLOCK = 2**18
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Fetcher:
    """Downloads files over http and https.

    `NAME` allows a host at the standard ports and at public addresses. `NAME:PORT` allows it at that port and at any
    address. A name is resolved once, and the connection goes to the address that was checked. Each redirect is checked
    like the first address.

    Args:
        hosts: Allowed hosts.
        limits: Bounds on bytes and seconds.
    """

    def __init__(self, hosts: Iterable[str], limits: Limits):
        self.hosts, self.limits = {host.lower() for host in hosts}, limits
        self._at_once = asyncio.Semaphore(limits.decoders)

    async def __call__(self, url: str) -> bytes:
        """Return the bytes at an address.

        Raises:
            ApiError: The address is not allowed, the response is late, or the file is too large.
        """
        async with self._at_once:
            return await asyncio.to_thread(self._download, url)

    def _download(self, url: str) -> bytes:
        end = time.monotonic() + self.limits.fetch_seconds
        for _ in range(MAX_REDIRECTS + 1):
            parts, port = self._check(url)
            connection = _connect(parts, port, self._resolve(parts, port), end)
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("GET", target, headers={"Accept": "*/*", "Accept-Encoding": "identity"})
                answer = connection.getresponse()
                if answer.status in REDIRECTS:
                    url = urljoin(url, answer.getheader("Location") or "")
                    continue
                if answer.status != 200:
                    raise _failed(url, f"status {answer.status}")
                return self._read(answer, url, end)
            except (OSError, http.client.HTTPException, ValueError) as error:
                is_late = time.monotonic() >= end  # the timer closed the socket, which reads as an end or as a reset
                late = f"no whole file in {self.limits.fetch_seconds:g} s"
                raise _failed(url, late if is_late else f"{type(error).__name__} ({error})") from error
            finally:
                connection.close()
        raise _failed(url, f"more than {MAX_REDIRECTS} redirects")

    def _read(self, answer: http.client.HTTPResponse, url: str, end: float) -> bytes:
        most, data = self.limits.upload_bytes, bytearray()
        if int(answer.getheader("Content-Length") or 0) > most:
            raise too_large(most, f"{answer.getheader('Content-Length')} at {url[:80]}")
        while block := answer.read1(BLOCK):
            data += block
            if len(data) > most:
                raise too_large(most, f"more at {url[:80]}")
        if time.monotonic() >= end:  # without a stated length, a partial file would look whole
            raise TimeoutError
        if answer.length:
            raise _failed(url, f"{len(data)} bytes, with {answer.length} missing")
        return bytes(data)

    def _check(self, url: str) -> tuple[SplitResult, int]:
        """Return the parts of an address and its port. Raises ApiError if its host is not allowed."""
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS.get(parts.scheme, 0)
            parts.hostname and parts.hostname.encode("idna" if not parts.hostname.isascii() else "ascii")
        except ValueError:
            raise _refused(url, "an invalid address") from None
        host = (parts.hostname or "").lower().rstrip(".")
        if parts.scheme not in PORTS or not host or parts.username is not None or not url.isprintable():
            raise _refused(url, "another form of address")
        is_allowed = host in self.hosts and port == PORTS[parts.scheme]
        if not (is_allowed or f"{host}:{port}" in self.hosts):
            raise _refused(url, f"the host {host}, port {port}")
        return parts, port

    def _resolve(self, parts: SplitResult, port: int) -> str:
        """Return an IP address of the host. Raises ApiError unless all of its addresses are allowed."""
        host = (parts.hostname or "").lower()
        try:
            found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            raise _failed(parts.geturl(), f"no address of {host} ({error})") from error
        if f"{host.rstrip('.')}:{port}" not in self.hosts:
            for address in found:
                if not is_public(address):
                    raise _refused(parts.geturl(), f"{address}, which is not a public address")
        return found[0]


def is_public(address: str) -> bool:
    """Return whether an IP address, or the IPv4 address inside it, belongs to the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in NAT64 or ip.sixtofour is not None or ip.teredo is not None:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def _connect(parts: SplitResult, port: int, address: str, end: float) -> http.client.HTTPConnection:
    """Return a connection to this IP address. A timer closes it at `end`, because a slow sender resets timeouts."""
    host = parts.hostname or ""
    connection = http.client.HTTPConnection(host, port)
    try:
        plain = socket.create_connection((address, port), timeout=max(end - time.monotonic(), 0.01))

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # closed before
                plain.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(max(end - time.monotonic(), 0.01), hang_up)
        timer.daemon = True
        timer.start()
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        else:
            connection.sock = plain
    except OSError as error:
        raise _failed(parts.geturl(), f"{type(error).__name__} ({error})") from error
    return connection


def _refused(url: str, found: str) -> ApiError:
    return ApiError(
        400,
        f"Expected the address of an allowed host, found {found} in {url[:80]!r}. Send the bytes of the file, or ask "
        "the operator to allow the host (--allow-url-host).",
        "url_not_allowed",
    )


def _failed(url: str, found: str) -> ApiError:
    return ApiError(
        400, f"Expected a file at {url[:80]!r}, found {found[:200]}. Check the address, or send the file's bytes.",
        "url_failed",
    )  # fmt: skip
