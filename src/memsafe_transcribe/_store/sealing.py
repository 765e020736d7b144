"""What an error said of a URL or a path, kept so that only those can read it who know that URL or path.

The messages name them, and hosts, and folders. SHAKE-256 over the key and a nonce makes the stream that hides the text.
"""

import os
from hashlib import shake_256
from hmac import digest as hmac_digest

_NONCE_BYTES = 16


def key_of(secret: bytes, what: str) -> bytes:
    """The key for what is said of `what`; who has the database alone cannot make it."""
    return hmac_digest(secret, b"text of " + what.encode("utf-8", "surrogatepass"), "sha256")


def sealed(text: str, key: bytes) -> bytes:
    """The text, for those who have the key."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _mixed(text.encode("utf-8", "surrogatepass"), key + nonce)


def unsealed(data: bytes, key: bytes) -> str:
    """What was sealed with the same key."""
    nonce, hidden = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
    return _mixed(hidden, key + nonce).decode("utf-8", "surrogatepass")


def _mixed(data: bytes, seed: bytes) -> bytes:
    stream = shake_256(seed).digest(len(data))
    return bytes(left ^ right for left, right in zip(data, stream, strict=True))
