"""Files that the command writes: whole, or as they were."""

from pathlib import Path

import pytest

from memsafe_transcribe._drafts import opened_output

from .support.needs import tmpfs


def test_a_disk_that_fills_up_at_the_end_leaves_the_older_file(tmp_path: Path) -> None:
    """The draft finds room, its copy only for a half: nobody sees that one."""
    with tmpfs(tmp_path / "disk", "size=12k") as disk:  # three pages, of which the draft takes two
        target = disk / "text.txt"
        target.write_text("older")
        with pytest.raises(OSError, match="No space left"), opened_output(target) as file:
            file.write("x" * 8000)
        assert target.read_text() == "older"
        assert list(disk.iterdir()) == [target]
