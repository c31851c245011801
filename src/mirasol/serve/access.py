"""Access control: API keys, origins of browser requests, security headers."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirasol.serve.errors import ApiError, error_response
from mirasol.serve.middleware import CLOSE

OPEN_PATHS = ("/health", "/v1/openapi.json")  # need no key, as the page does not
KEY_PROTOCOL = "openai-insecure-api-key."  # browsers set no headers on a WebSocket: the key is a subprotocol
SHORTEST_KEY = 16
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
}
GUARDS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


@dataclass(frozen=True)
class Keys:
    """API keys: the SHA-256 of each key, and its owner's name."""

    owners: dict[str, str]

    @classmethod
    def load(cls, path: str | Path) -> "Keys":
        """Read a file with a name and a key on each line; # begins a comment.

        Raises:
            ValueError: A line has another form, a key is short, or a key or name occurs twice.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise ValueError(
                f"Expected a text file of API keys at {path}, found none ({error}). Write one line of NAME KEY "
                "for each client."
            ) from error
        found = [(number, words) for number, line in enumerate(lines, 1) if (words := line.split("#")[0].split())]
        for number, words in found:
            if len(words) != 2 or len(words[1]) < SHORTEST_KEY:
                raise ValueError(
                    f"Expected a name and a key of at least {SHORTEST_KEY} characters in line {number} of {path}, "
                    f"found {len(words)} words. Make a key with: openssl rand -hex 24"
                )
        owners = {_digest(key): name for _, (name, key) in found}
        if not owners or len(set(owners.values())) < len(found):
            raise ValueError(
                f"Expected at least one key in {path}, and each name and key once, found {len(found)} lines with "
                f"{len(owners)} keys. Correct the file."
            )
        return cls(owners)

    def owner(self, key: str) -> str | None:
        """Return the owner of a key. The digest is looked up, so that the time tells nothing about other keys."""
        return self.owners.get(_digest(key))


class Access:
    """Refuses requests without a known key, and requests that other web sites make a browser send.

    Args:
        app: The application behind it.
        keys: API keys; None admits every client.
        names: Host names that requests may address; None admits any. A server on loopback without keys needs them,
            because any web site may point its own name at 127.0.0.1 and then read the responses.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None = None, names: tuple[str, ...] | None = None):
        self.app, self.keys, self.names = app, keys, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with security headers, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        try:
            self._check(scope)
        except ApiError as error:
            if scope["type"] == "websocket":
                await receive()
                return await send({"type": "websocket.close", "code": 1008, "reason": error.detail[:120]})
            return await error_response(error, CLOSE)(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message["headers"])
                names = {name for name, _ in own}
                message["headers"] = [*own, *(pair for pair in GUARDS if pair[0] not in names)]
            await send(message)

        await self.app(scope, receive, guarded)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.names is not None and _name(host) not in self.names:
            raise ApiError(
                403, f"Expected a request to {' or '.join(self.names)}, found one to {host[:80]!r}. Use the address "
                "that the server printed, or start it with --api-key-file.", "wrong_host",
            )  # fmt: skip
        origin = headers.get("origin")
        acts = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if origin is not None and acts and origin.lower().partition("://")[2] != host.lower():
            raise ApiError(
                403, f"Expected a request from a page of this server, found the origin {origin[:80]!r}. Open this "
                "server's own page: other web sites may not use it from a browser.", "wrong_origin",
            )  # fmt: skip
        path = scope["path"]
        if self.keys is None or path in OPEN_PATHS or not path.startswith(("/v1/", "/metrics")):
            return
        owner = self.keys.owner(_key(scope, headers))
        if owner is None:
            raise ApiError(
                401, "Expected an API key that this server knows, found another key or none. Send it as "
                "Authorization: Bearer KEY.", "invalid_api_key", type="authentication_error",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        scope.setdefault("state", {})["client"] = owner


def _key(scope: Scope, headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    named = (each for each in scope.get("subprotocols", ()) if each.startswith(KEY_PROTOCOL))
    return next(named, "").removeprefix(KEY_PROTOCOL)


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()
