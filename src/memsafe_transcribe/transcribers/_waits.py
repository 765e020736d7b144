"""How long a service asks to be left alone, where it names a date."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds_until(text: str, now: datetime) -> float | None:
    """From now to an HTTP date (RFC 9110, 5.6.7), as Retry-After may have; None where it has passed, or is none."""
    try:
        at = parsedate_to_datetime(text)
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None
