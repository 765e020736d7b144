"""What is checked, and how: `nox -l` lists the sessions, `nox -s NAME -- ARGUMENTS` passes arguments to pytest."""

import os
import shutil
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["tests", "coverage"]

SOURCE = Path("src/memsafe_transcribe")
PYPROJECT = nox.project.load_toml("pyproject.toml")
# Files that decide without a clock and without I/O, so that no line and no branch of them need go untested.
PURE = tuple(PYPROJECT["tool"]["mutmut"]["only_mutate"])
DOWNLOAD_RULES = tuple(f"tests/download/test_{name}.py" for name in ("pace", "policy", "ranges", "retries"))
AUDIO_RULES = tuple(
    f"tests/audio/test_{name}.py"
    for name in ("boxes", "chunker", "cut_points", "mp4", "mp4_headers", "pure", "voicing", "words")
)
TRANSCRIPTION_RULES = tuple(
    f"tests/transcription/test_{name}.py"
    for name in ("formats", "oracle", "placing", "planning", "scripts", "seams", "stitching", "transcript")
)
LONG = (
    "tests/memory",
    "tests/admission",
    *DOWNLOAD_RULES,
    "tests/download/test_download_machine.py",
    *AUDIO_RULES,
    *TRANSCRIPTION_RULES,
    "tests/worker/test_frames.py",
    "tests/store/test_database.py",
    "tests/store/test_records.py",
    "tests/timeline/test_picture.py",
    "tests/timeline/test_run.py",
    "tests/transcribers/test_gemini_answers.py",
)
STORE = tuple(f"tests/store/test_store_{name}.py" for name in ("kill", "faults", "machine"))
# What needs Ray, half a gigabyte of it, and starts a cluster: only where it is asked for.
RAY = ("tests/integrations/test_ray.py",)
TORTURE = ("tests/torture",)
ALONE = ("-n", "0")  # one after another: what they count is printed, and coverage sees them
# What a kernel with cgroup v2 must say itself.
REAL_KERNEL = ("tests/memory/test_real_cgroup.py", "tests/cgroup2/inside.py")
# What shows in two minutes whether other releases of what we stand on will do.
FAST = (
    "tests/test_public_api.py",
    "tests/test_units.py",
    "tests/test_blocking.py",
    "tests/test_wheel.py",
    "tests/memory",
    "tests/worker",
    "tests/transcription",
    "tests/transcribers",
    "tests/download/test_downloader.py",
    "tests/store/test_batch.py",
    "tests/integrations",
)


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """All tests, on every Python that is supported."""
    session.install("-e", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def long(session: nox.Session) -> None:
    """The state machines and properties, with many more examples than on every day."""
    session.install("-e", ".[dev]")
    session.run("pytest", *ALONE, *(session.posargs or (*LONG, *STORE)), env={"MEMSAFE_TEST_PROFILE": "long"})


@nox.session
def proof(session: nox.Session) -> None:
    """All of docs/proof.md that runs by itself, one after the other, for a day; MEMSAFE_PROOF_DIR gets the figures."""
    for name in ("torture", "simulation", "fuzz", "mutation"):
        session.notify(name)


@nox.session
def torture(session: nox.Session) -> None:
    """Each step and each call of each use goes wrong: two hours on two cores. Each place of the code must be hit."""
    session.install("-e", ".[dev]")
    folder = os.environ.get("MEMSAFE_PROOF_DIR") or session.create_tmp()
    env = {"MEMSAFE_TEST_PROFILE": "long", "MEMSAFE_PROOF_DIR": folder}
    session.run("pytest", "-n", "auto", "--dist", "load", *(session.posargs or TORTURE), env=env)
    if not session.posargs:
        session.run("python", "-m", "tests.torture", folder)
        session.run("pytest", *ALONE, *STORE, env=env)


@nox.session
def simulation(session: nox.Session) -> None:
    """100 000 schedules of the admission, and of batches with their store; MEMSAFE_PROOF_DIR gets the figures."""
    session.install("-e", ".[dev]")
    session.run("pytest", *ALONE, *(session.posargs or ("tests/simulation",)), env={"MEMSAFE_TEST_PROFILE": "long"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Whatever strangers send, and mutants of real media files, each for MEMSAFE_FUZZ_SECONDS (ten minutes)."""
    session.install("-e", ".[dev]")
    tests = session.posargs or ("tests/fuzz", "tests/audio/test_fuzz.py")
    session.run("pytest", *ALONE, *tests, env={"MEMSAFE_TEST_PROFILE": "long"})


@nox.session
def coverage(session: nox.Session) -> None:
    """Every line and every branch of the pure files, by the tests of memory, admission and the rules of all else."""
    if absent := [name for name in PURE if not Path(name).is_file()]:
        session.error(f"not there to be measured: {', '.join(absent)}")
    session.install("-e", ".[dev]")
    data = {"COVERAGE_FILE": str(Path(session.virtualenv.location) / "coverage")}
    # With the source named, a file that no test imports counts as uncovered, instead of not at all.
    session.run(
        "coverage",
        "run",
        "--branch",
        f"--source={SOURCE}",
        "-m",
        "pytest",
        *ALONE,
        *(session.posargs or LONG),
        env=data,
    )
    session.run("coverage", "report", f"--include={','.join(PURE)}", "--show-missing", "--fail-under=100", env=data)


@nox.session
def mutation(session: nox.Session) -> None:
    """Each small change to the pure files is noticed by a test, or was looked at. It takes hours; it can be resumed."""
    session.install("-e", ".[dev]", "mutmut==3.8.1")
    session.run("mutmut", "run", *session.posargs, env={"MEMSAFE_TEST_PROFILE": "mutation"})
    session.run("python", "-m", "tests.mutation")


@nox.session
def cgroup2(session: nox.Session) -> None:
    """On a kernel with cgroup v2, in an emulated machine; CI is set, so that nothing there is skipped."""
    session.install("-e", ".[dev]")
    machine = ("python", "-m", "tests.cgroup2.machine", "--seconds", "1800", "--")
    session.run(*machine, "env", "CI=1", "python", "-m", "pytest", *ALONE, *(session.posargs or REAL_KERNEL))


@nox.session(python="3.11")
@nox.parametrize("release", ["newest", "oldest"])
def ray(session: nox.Session, release: str) -> None:
    """The integration with Ray, its page and its example, with the newest Ray and with the oldest that is let in."""
    (wanted,) = PYPROJECT["project"]["optional-dependencies"]["ray"]
    session.install("-e", ".[dev]", wanted.replace(">=", "==") if release == "oldest" else wanted)
    session.run("pytest", *ALONE, *(session.posargs or RAY))


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """With the oldest release of each dependency, and of each engine's SDK, that pyproject.toml lets in."""
    project = PYPROJECT["project"]
    extras = (texts for name, texts in project["optional-dependencies"].items() if name not in ("dev", "docs"))
    oldest = Path(session.create_tmp()) / "oldest.txt"
    with oldest.open("w") as file:
        for requirement in map(Requirement, [*project["dependencies"], *(text for texts in extras for text in texts)]):
            if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
                (bound,) = (each.version for each in requirement.specifier if each.operator == ">=")
                file.write(f"{requirement.name}=={bound}\n")
    session.install("-e", ".[dev]", "--constraint", str(oldest))
    # An old client's own use of what a newer pydantic deprecates is nothing that we could mend.
    session.run("pytest", "-W", "ignore::DeprecationWarning", *(session.posargs or FAST))


@nox.session(python="3.11")
def wheel(session: nox.Session) -> None:
    """The built wheel, by tests that lie in a folder without `src`."""
    folder = Path(session.create_tmp())
    session.run("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), ".", silent=True)
    (built,) = folder.glob("*.whl")
    session.install(f"{built}[dev]")
    alone = folder / "alone"
    for name in ("tests", "docs"):
        shutil.copytree(name, alone / name)
    shutil.copy("pyproject.toml", alone)
    session.chdir(alone)
    session.run("pytest", *(session.posargs or ("tests/memory", "tests/transcription", "tests/testing")))


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into build/site; a warning is an error."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", *session.posargs, "docs", "build/site")
