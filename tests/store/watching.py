"""What happens to the chunks of a store, noted by triggers in its database; its engines name the chunk they hear."""

import re

WATCHED = """
CREATE TABLE happened (what TEXT, result BLOB);
CREATE TRIGGER inserted AFTER INSERT ON chunks BEGIN INSERT INTO happened VALUES ('stored', new.result); END;
CREATE TRIGGER deleted AFTER DELETE ON chunks BEGIN INSERT INTO happened VALUES ('removed', old.result); END;
CREATE TRIGGER updated AFTER UPDATE ON chunks BEGIN INSERT INTO happened VALUES ('changed', old.result); END;
"""
_NAME = re.compile(r"[0-9a-f]{16}@[0-9.]+")


def chunks_in(text: str) -> set[str]:
    """The chunks of a transcript."""
    return set(_NAME.findall(text))


def chunk_of(result: bytes) -> str:
    """The one that is stored there."""
    (name,) = chunks_in(result.decode())
    return name
