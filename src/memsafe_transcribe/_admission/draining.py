"""What is said to whoever comes when the process is about to end."""

from .._errors import DrainingError

_RETRY_SECONDS = 5.0  # until another process has taken over


def draining_error(need_bytes: int, waiting: int) -> DrainingError:
    """Why it is not let in.

    Args:
        need_bytes: that it would have reserved.
        waiting: how many were in the queue.
    """
    return DrainingError(
        "this process is about to end, and begins nothing more: try again in another",
        need_bytes=need_bytes,
        waiting=waiting,
        retry_after_seconds=_RETRY_SECONDS,
    )
