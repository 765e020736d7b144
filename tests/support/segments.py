"""pydub, which warns when it is imported: of audioop, and of a missing ffmpeg command, which nothing here needs."""

import warnings
from importlib import import_module
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pydub: Any = import_module("pydub")
