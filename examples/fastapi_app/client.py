"""Send a file or a URL to the service, come back when it says so, and print the segments as they come.

python client.py http://127.0.0.1:8000 talk.mp3
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx


def events(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The server-sent events in the lines of a response."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def ask(client: httpx.Client, source: str) -> bool:
    """One try; False if it is to be tried again, after the time that the service has asked for."""
    with ExitStack() as opened:
        if source.startswith(("http://", "https://")):
            asked = client.stream("GET", "/v1/events", params={"url": source})
        else:
            asked = client.stream("POST", "/v1/events", content=opened.enter_context(open(source, "rb")))
        response = opened.enter_context(asked)
        if response.status_code == 503:
            time.sleep(int(response.headers["retry-after"]))
            return False
        if response.status_code != 200:
            raise SystemExit(response.read().decode())
        for name, data in events(response.iter_lines()):
            if name == "segment":
                print(f"{data['start']:8.1f} {data['text']}", flush=True)
            elif name == "done":
                print(f"{data['status']}, {data['duration']} s")
                return True
            elif name == "error" and data["status"] == 503:
                time.sleep(data["retry_after_seconds"])
                return False
            elif name == "error":
                raise SystemExit(data["message"])
    raise SystemExit("the service has hung up")


def main() -> None:
    base_url, source = sys.argv[1:]
    with httpx.Client(base_url=base_url, timeout=None) as client:
        while not ask(client, source):
            pass


if __name__ == "__main__":
    main()
