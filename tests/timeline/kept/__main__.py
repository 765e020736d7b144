"""Draw them anew."""

from memsafe_transcribe._timeline.picture import drawn

from . import FOLDER, RUNS

for name, run in RUNS.items():
    (FOLDER / f"{name}.svg").write_text(drawn(run), encoding="utf-8")
