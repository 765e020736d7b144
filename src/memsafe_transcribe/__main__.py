"""Where the command begins: `memsafe-transcribe`, or `python -m memsafe_transcribe`."""

import os
import signal
import sys


def main() -> int:
    """Run the command; return its exit code."""
    # Until the command listens itself, an interrupt simply ends it: no traceback from the middle of an import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: the rest need not know
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    from .cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
