"""One request to an ASGI application, without a server: what it is sent, what it says, and when its client hangs up."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.types import ASGIApp, Message


@dataclass
class Exchange:
    """Call `run` once.

    Attributes:
        pieces: the body of the request.
        cuts_off: hang up instead of sending the end of the body.
        kind: of the scope: other than "http" it is no request.
        fails: sending raises from the first piece of a body on, as ASGI 2.4 has it for clients that hung up.
        sent: what the application has answered so far.
        hung_up: set it to hang up.
    """

    path: str = "/"
    pieces: Sequence[bytes] = ()
    kind: str = "http"
    cuts_off: bool = False
    fails: bool = False
    sent: list[Message] = field(default_factory=list)
    hung_up: anyio.Event = field(default_factory=anyio.Event)
    _is_news: anyio.Event = field(default_factory=anyio.Event)

    async def run(self, app: ASGIApp) -> None:
        left = [{"type": "http.request", "body": piece, "more_body": True} for piece in self.pieces]
        left.append({"type": "http.disconnect"} if self.cuts_off else {"type": "http.request", "body": b""})

        async def receive() -> Message:
            await anyio.lowlevel.checkpoint()
            if left:
                return left.pop(0)
            await self.hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            await anyio.lowlevel.checkpoint()
            if self.fails and message["type"] == "http.response.body":
                raise OSError("the client has hung up")
            self.sent.append(message)
            self._is_news.set()
            self._is_news = anyio.Event()

        scope = {"type": self.kind, "method": "POST", "path": self.path, "query_string": b"", "headers": []}
        await app(scope, receive, send)

    async def until(self, said: bytes) -> None:
        """Wait until the application has said that."""
        while not any(said in message.get("body", b"") for message in self.sent):
            await self._is_news.wait()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(message["body"] for message in self.sent[1:]).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Server-sent ones; comments are left out."""
        blocks = [block.split("\n") for block in self.text.split("\n\n")[:-1] if not block.startswith(":")]
        return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]

    async def wait_for(self, text: str) -> None:
        """Until the answer has it."""
        while text not in self.text:
            await self._is_news.wait()
