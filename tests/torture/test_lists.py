"""The generated lists of sites, and what is left out of them."""

from .sites import await_sites, io_sites
from .tally import ELSEWHERE


def test_no_reason_is_given_for_what_is_not_there() -> None:
    """Each file, or folder, that is left out has sites."""
    sites = await_sites() | io_sites()
    assert not [where for where in ELSEWHERE if not any(f"{site.file}:{site.text}".startswith(where) for site in sites)]
