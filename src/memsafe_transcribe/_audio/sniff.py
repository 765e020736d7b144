"""Pure: say what a file is that is not audio, from its first bytes. For error messages only: it decides nothing."""

_MAGIC = (
    (b"ffconcat", "an ffconcat playlist, which names other files"),
    (b"#EXTM3U", "an HLS or M3U playlist, which names other addresses"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
)
_TAGS = ((b"<mpd", "a DASH playlist, which names other addresses"), (b"<html", "an HTML page"), (b"<?xml", "XML"))
HEAD_BYTES = 512


def describe(head: bytes) -> str | None:
    """Name a well-known kind of file that holds no audio of its own; None if it is none of them.

    Args:
        head: the file's first bytes, `HEAD_BYTES` or fewer.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, name in _MAGIC:
        if head.startswith(magic) or text.startswith(magic):
            return name
    for tag, name in _TAGS:
        if tag in text.lower():
            return name
    if not head:
        return "empty"
    try:
        decoded = head.decode("utf-8", "strict" if len(head) < HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return None
    return "plain text" if decoded.isprintable() or decoded.replace("\n", "").replace("\r", "").isprintable() else None
