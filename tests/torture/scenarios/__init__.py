"""What is tortured: uses of the public API that a host could have written, from the first await to the last."""

from ..cases import SCENARIOS
from . import admissions, downloads, jobs, services, stores

__all__ = ["SCENARIOS", "admissions", "downloads", "jobs", "services", "stores"]
