"""One line for each event of a download, for people and for programs."""

import logging
from typing import Any

_logger = logging.getLogger("memsafe_transcribe.download")


def log(event: str, url: str, **figures: Any) -> None:
    """Write `download EVENT url=... name=value ...`; the record carries the same as `event`, `url` and `figures`.

    At level INFO, failures too: whoever is to know of them is told by an exception.

    Args:
        event: what happened: "started", "answered", "retry", "dropped", "finished" or "failed".
        url: without query and credentials.
        figures: what belongs to it.
    """
    if _logger.isEnabledFor(logging.INFO):
        text = "".join(f" {name}={value}" for name, value in figures.items())
        extra = {"event": event, "url": url, "figures": figures}
        _logger.info("download %s url=%s%s", event, url, text, extra=extra)
