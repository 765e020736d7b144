"""Pure: where the audio is cut. Chunks tile it exactly, on the clock of its samples."""

DEFAULT_CHUNK_SECONDS = 60.0


def chunk_samples(wanted_seconds: float | None, longest_seconds: float, sample_rate_hz: int) -> int:
    """How many samples each chunk but the last has.

    Args:
        wanted_seconds: what the caller asked for; None lets the engine's limit and the default decide.
        longest_seconds: the longest chunk that the engine takes.
        sample_rate_hz: the clock.

    Raises:
        ValueError: the caller asks for more than the engine takes, or for nothing.
    """
    if wanted_seconds is None:
        return int(min(DEFAULT_CHUNK_SECONDS, longest_seconds) * sample_rate_hz)
    if not 0 < wanted_seconds <= longest_seconds:
        raise ValueError(
            f"chunk_seconds must be more than 0 and at most {longest_seconds:g}, the longest chunk that the engine "
            f"takes (max_chunk_seconds); got {wanted_seconds:g}"
        )
    return max(1, int(wanted_seconds * sample_rate_hz))
