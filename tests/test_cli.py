"""The command, as a child process: exit codes, one clear line, and nothing left behind."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import memsafe_transcribe as mt

from .support.media import SPEECH, tone_samples, write_long_mp3, write_wav
from .support.plugin import install_plugin
from .support.processes import gone_within, watch_names, watch_opens
from .support.server import Exchange, Server
from .support.tree import run_watched
from .timeline.shapes import read

COMMAND = [sys.executable, "-m", "memsafe_transcribe"]
MIB = 1 << 20


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the test plugin `speech-clock` is installed."""
    return install_plugin(tmp_path_factory.mktemp("site"))


def command(env: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_text_goes_to_standard_output_and_nothing_else_does(env: dict[str, str], tmp_path: Path) -> None:
    """Not even progress."""
    audio = write_wav(tmp_path / "tone.wav", tone_samples(8.0))
    done = command(env, "transcribe", "--engine", "speech-clock", audio)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [f"word{number}" for number in range(20)]


@pytest.mark.parametrize(
    ("name", "start"),
    [("srt", "1\n00:00:00,000 --> "), ("vtt", "WEBVTT\n\n00:00:00.000 --> "), ("json", '{\n  "task"')],
)
def test_every_format_can_be_had(env: dict[str, str], tmp_path: Path, name: str, start: str) -> None:
    """The shape is that of the transcript's own methods."""
    audio = write_wav(tmp_path / "tone.wav", tone_samples(8.0))
    done = command(env, "transcribe", "--engine", "speech-clock", "--format", name, audio)
    assert done.returncode == 0
    assert done.stdout.startswith(start)
    assert done.stdout.count("word19") == (2 if name == "json" else 1) + (name == "json")


def test_a_plan_says_what_a_job_would_take(env: dict[str, str], tmp_path: Path) -> None:
    """Peak, chunks, length and why; under the limit that is given, which may be too small for it."""
    audio = write_wav(tmp_path / "tone.wav", tone_samples(80.0))
    done = command(env, "plan", "--engine", "speech-clock", audio, "--limit", "512MiB")
    assert (done.returncode, done.stderr) == (0, "")
    figures = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(figures) == ["peak", "chunks", "duration", "why"]
    assert re.fullmatch(r"2\d\.\d MiB, at most 4\d\.\d MiB", figures["peak"])
    assert (figures["chunks"], figures["duration"]) == ("60 s, 1 at once", "1:20")
    assert "pcm_s16le in wav" in figures["why"]
    small = command(env, "plan", "--engine", "pocketsphinx", audio, "--limit", "128MiB")
    assert small.returncode == 1
    assert "are left of the 115.2 MiB that may be used under this limit (128.0 MiB)" in small.stderr
    # The engine's 150 MiB and the job's 30 are less than 90 % of it; but the command itself takes some, too.
    tight = command(env, "plan", "--engine", "pocketsphinx", audio, "--limit", "205MiB")
    assert (tight.returncode, "of the 184.5 MiB that may be used" in tight.stderr) == (1, True)
    assert command(env, "plan", "--engine", "pocketsphinx", audio, "--limit", "300MiB").returncode == 0
    wrong = command(env, "plan", audio, "--limit", "many")
    assert (wrong.returncode, "'many' is not a size" in wrong.stderr) == (2, True)
    none = command(env, "plan", audio, "--limit", "0")
    assert (none.returncode, "must be more than 0 bytes, got 0" in none.stderr) == (2, True)


def test_output_goes_to_a_file_or_a_folder(env: dict[str, str], tmp_path: Path) -> None:
    """A file for one source, a folder for several; an older file is replaced."""
    one, two = (write_wav(tmp_path / f"{name}.wav", tone_samples(1.0)) for name in ("one", "two"))
    target, folder = tmp_path / "text.txt", tmp_path / "texts"
    target.write_text("older")
    folder.mkdir()
    assert command(env, "transcribe", "--engine", "speech-clock", one, "--output", target).returncode == 0
    assert target.read_text() == "word0 word1\n"
    done = command(env, "transcribe", "--engine", "speech-clock", one, two, "--output", folder, "--format", "vtt")
    assert (done.returncode, done.stdout) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == ["one.vtt", "two.vtt"]


def test_a_failure_leaves_the_older_output_alone(env: dict[str, str], tmp_path: Path) -> None:
    """No half a transcript, and no draft beside it."""
    target = tmp_path / "text.txt"
    target.write_text("older")
    bad = tmp_path / "bad.mp3"
    bad.write_bytes(b"nothing")
    assert command(env, "transcribe", "--engine", "speech-clock", bad, "--output", target).returncode == 1
    assert target.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp3", "text.txt"]


BAD_INPUT = [
    (["nothing.mp3"], 1, r"nothing\.mp3: No such file or directory"),
    (["not_audio.mp3"], 1, r"not_audio\.mp3 is not audio: it is plain text"),
    (["playlist.mp3"], 1, r"playlist\.mp3 is not audio: it is an ffconcat playlist"),
    (["--engine", "nope", "tone.wav"], 2, r"no engine 'nope' is installed; there are: .*pocketsphinx"),
    (["http://127.0.0.1:9/a.mp3"], 1, r"127\.0\.0\.1 is a private address"),
    (["http://169.254.169.254/latest"], 1, r"reserved, link-local or a metadata service"),
    (["--allow-private", "http://127.0.0.1:9/a.mp3"], 1, r"http://127\.0\.0\.1:9/a\.mp3: .*connection"),
    (["ftp://example.com/a.mp3"], 1, r"only http and https URLs, and files"),
    (["tone.wav", "--language", "de", "--engine", "pocketsphinx"], 2, r"knows the languages en, en-US; got 'de'"),
    (["tone.wav", "--output", "no/such/folder.txt"], 2, r"there is no folder no/such"),
    (["tone.wav", "tone.wav", "--output", "."], 2, r"have the same name"),
    (["tone.wav", "playlist.mp3", "--format", "srt"], 2, r"several sources as srt need --output FOLDER"),
    (["tone.wav", "playlist.mp3", "--output", "not_audio.mp3"], 2, r"must be a folder that exists"),
    (["tone.wav", "--output", "./tone.wav"], 2, r"is one of the sources"),
    (
        ["tone.wav", "--timeline", "tone.wav"],
        2,
        r"--timeline tone\.wav: the picture is an SVG, and its name must end so",
    ),
    (["tone.wav", "--timeline", "no/such/run.svg"], 2, r"there is no folder no/such"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD_INPUT, ids=[" ".join(case[0]) for case in BAD_INPUT])
def test_bad_input_gives_one_clear_line(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    """Exit code 1 or 2, the reason, and no traceback."""
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "tone.wav", tone_samples(1.0))
    (tmp_path / "not_audio.mp3").write_text("some words\n")
    (tmp_path / "playlist.mp3").write_text("ffconcat version 1.0\nfile tone.wav\n")
    engine = [] if "--engine" in arguments else ["--engine", "speech-clock"]
    done = command(env, "transcribe", *engine, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.search(message, done.stderr)
    assert done.stderr.count("\n") == 1


def test_a_url_is_not_looked_for_among_the_files(env: dict[str, str], tmp_path: Path) -> None:
    """One that is signed may be longer than any path."""
    url = f"http://10.0.0.1/a.mp3?signature={'k' * 5000}"
    done = command(env, "transcribe", "--engine", "speech-clock", url, "--output", tmp_path)
    assert (done.returncode, "10.0.0.1 is a private address" in done.stderr) == (1, True)


def test_a_404_is_said(env: dict[str, str], server: Server) -> None:
    """By its number."""
    done = command(env, "transcribe", "--engine", "speech-clock", "--allow-private", server.url("/a.mp3?key=secret"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"memsafe-transcribe: {server.url('/a.mp3')}: the server answered 404\n"


def test_what_a_url_hides_is_told_to_nobody(env: dict[str, str], tmp_path: Path, server: Server) -> None:
    """Neither its query nor its credentials, whatever the command says of it."""
    url = server.url("/a.wav?key=secret")
    damaged = bytearray(write_long_mp3(tmp_path / "long.mp3", 60).read_bytes())
    damaged[100_000:110_000] = bytes(10_000)
    server.routes["/a.wav"] = lambda exchange: exchange.answer(bytes(damaged))
    (tmp_path / "list").write_text(server.url("/gone.wav?key=secret"))
    engine = "--engine", "speech-clock", "--allow-private"
    cases: list[tuple[list[str | Path], str]] = [
        (["plan", url, *engine, "--limit", "1MiB"], f"{server.url('/a.wav')} does not fit"),
        (["transcribe", url, *engine], f"{server.url('/a.wav')}: 1 damaged places"),
        (["batch", tmp_path / "list", *engine, "--output-dir", tmp_path], f": {server.url('/gone.wav')}: the server"),
        (["transcribe", "ftp://me:secret@127.0.0.1/a.mp3"], "ftp://127.0.0.1/a.mp3: only http and https"),
    ]
    for arguments, told in cases:
        said = command(env, *arguments).stderr
        assert told in said
        assert "secret" not in said


def test_one_bad_source_does_not_stop_the_others(env: dict[str, str], tmp_path: Path) -> None:
    """What can be done is done; the exit code tells that not all was."""
    audio = write_wav(tmp_path / "tone.wav", tone_samples(1.0))
    done = command(env, "transcribe", "--engine", "speech-clock", tmp_path / "nothing.mp3", audio)
    assert (done.returncode, done.stdout) == (1, "word0 word1\n")


def test_a_reader_that_goes_away_makes_no_noise(env: dict[str, str], tmp_path: Path) -> None:
    """As with `| head -1`."""
    audio = write_long_mp3(tmp_path / "speech.mp3", 3600)
    with subprocess.Popen(
        [*COMMAND, "transcribe", "--engine", "speech-clock", str(audio)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("word0 ")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


def test_ctrl_c_in_a_download_leaves_nothing(env: dict[str, str], server: Server, spool_dir: Path) -> None:
    """Exit code 130, one line, an empty spool."""

    def half(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(5_000_000))
        exchange.hold_until_closed()

    server.routes["/half.mp3"] = half
    with subprocess.Popen(
        [*COMMAND, "transcribe", "--engine", "speech-clock", "--allow-private", server.url("/half.mp3")],
        env={**env, "TMPDIR": str(spool_dir)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        server.wait_for_requests(1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "memsafe-transcribe: interrupted; nothing is left behind\n")
        assert process.returncode == 130


def test_ctrl_c_in_a_decode_leaves_no_child(env: dict[str, str], tmp_path: Path) -> None:
    """While PocketSphinx and the decoder are both at work."""
    audio = write_long_mp3(tmp_path / "speech.mp3", 600)
    with subprocess.Popen(
        [*COMMAND, "transcribe", str(audio)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("alice was")
        children = [os.pidfd_open(child.pid) for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(children) == 2
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        said = stderr.splitlines()[-1]  # on a slow machine there is a line of progress before
        assert (process.returncode, said) == (130, "memsafe-transcribe: interrupted; nothing is left behind")
        for child in children:
            assert gone_within(child, 0)
            os.close(child)


def test_more_signals_make_no_noise(env: dict[str, str], tmp_path: Path) -> None:
    """Impatient fingers, or a supervisor: one line, and the exit code of the first signal."""
    audio = write_long_mp3(tmp_path / "speech.mp3", 600)
    with subprocess.Popen(
        [*COMMAND, "transcribe", str(audio)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("alice was")
        process.send_signal(signal.SIGTERM)
        for _ in range(5):
            process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    # The last of them may come when the command has nothing more to clean up, and then simply ends it.
    assert process.returncode in (130, 143, -signal.SIGINT)
    assert stderr in ("", "memsafe-transcribe: interrupted; nothing is left behind\n")


@pytest.mark.parametrize("closed", ["1", "2"])
def test_closed_standard_streams_do_no_harm(env: dict[str, str], tmp_path: Path, closed: str) -> None:
    """With `>&-` or `2>&-`, the output file is still written."""
    audio = write_wav(tmp_path / "tone.wav", tone_samples(1.0))
    target = tmp_path / "text.txt"
    line = f'exec "$@" {closed}>&-'
    command = [*COMMAND, "transcribe", "--engine", "speech-clock", str(audio), "--output", str(target)]
    done = subprocess.run(["sh", "-c", line, "sh", *command], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert target.read_text() == "word0 word1\n"


def test_what_is_no_regular_file_is_written_and_not_replaced(env: dict[str, str], tmp_path: Path) -> None:
    """A FIFO keeps its reader, a link its target, a file its mode."""
    audio = write_wav(tmp_path / "what? #1.wav", tone_samples(1.0))
    fifo, link, real = tmp_path / "fifo", tmp_path / "link", tmp_path / "real"
    os.mkfifo(fifo)
    real.write_text("older")
    real.chmod(0o600)
    link.symlink_to(real)
    with subprocess.Popen(["cat", str(fifo)], stdout=subprocess.PIPE, text=True) as reader:
        assert command(env, "transcribe", "--engine", "speech-clock", audio, "--output", fifo).returncode == 0
        assert reader.communicate(timeout=30)[0] == "word0 word1\n"
    assert command(env, "transcribe", "--engine", "speech-clock", audio, "--output", link).returncode == 0
    assert link.is_symlink()
    assert (real.read_text(), real.stat().st_mode & 0o777) == ("word0 word1\n", 0o600)
    assert command(env, "transcribe", "--engine", "speech-clock", audio, "--output", tmp_path).returncode == 0
    assert (tmp_path / "what? #1.txt").read_text() == "word0 word1\n"


def test_a_terminal_gets_a_bar(env: dict[str, str], tmp_path: Path) -> None:
    """On standard error; standard output stays the text alone."""
    audio = write_wav(tmp_path / "tone.wav", tone_samples(1.0))
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "transcribe", "--engine", "speech-clock", str(audio)],
        env={**env, "TERM": "xterm", "COLUMNS": "120"}, stdout=subprocess.PIPE, stderr=terminal, text=True,
    ) as process:  # fmt: skip
        stdout, _ = process.communicate(timeout=60)
    os.close(terminal)
    shown = b""
    while select.select([controller], [], [], 0)[0]:
        try:
            shown += os.read(controller, 65536)
        except OSError:  # the other end is closed
            break
    os.close(controller)
    assert (process.returncode, stdout) == (0, "word0 word1\n")
    assert "━".encode() in shown


def test_a_batch_writes_a_file_for_each_and_says_what_failed(env: dict[str, str], tmp_path: Path) -> None:
    """One line of the list is bad, one is a comment; the summary names it, and the rest is there."""
    good = write_wav(tmp_path / "good.wav", tone_samples(2.0))
    listed = tmp_path / "list.txt"
    listed.write_text(f"# talks\n{good}\n\nftp://example.com/x.mp3\n{tmp_path / 'missing.wav'}\n")
    done = command(env, "batch", listed, "--engine", "speech-clock", "--output-dir", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert (tmp_path / "00001-good.txt").read_text().split() == [f"word{number}" for number in range(5)]
    assert "ftp://example.com/x.mp3" in done.stderr
    assert f"{tmp_path / 'missing.wav'}: No such file or directory" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("1 done, 2 failed: 1 ")


def test_a_batch_goes_on_with_the_same_store(env: dict[str, str], tmp_path: Path, server: Server) -> None:
    """What is done is not fetched again, and what was given up is only tried again when that is asked for."""
    body = write_wav(tmp_path / "tone.wav", tone_samples(2.0)).read_bytes()
    server.routes["/a.wav"] = lambda exchange: exchange.answer(body)
    listed, folder = tmp_path / "list.txt", tmp_path / "out"
    folder.mkdir()
    listed.write_text(f"{server.url('/a.wav')}\n{server.url('/b.wav')}\n")
    batch: list[str | Path] = ["batch", listed, "--engine", "speech-clock", "--allow-private"]
    batch += ["--output-dir", folder, "--store", tmp_path / "jobs.sqlite"]
    first = command(env, *batch)
    assert (first.returncode, first.stderr.splitlines()[-1]) == (1, "1 done, 1 failed: 1 HTTPStatusError")
    written = (folder / "00001-a.txt").read_text()
    (folder / "00001-a.txt").unlink()
    requests = len(server.requests)
    second = command(env, *batch)
    assert (second.returncode, second.stderr.splitlines()[-1]) == (1, "1 done, 1 failed: 1 DeadLetterError")
    assert ((folder / "00001-a.txt").read_text(), len(server.requests)) == (written, requests)
    server.routes["/b.wav"] = lambda exchange: exchange.answer(body)
    assert command(env, *batch, "--retry-failed").returncode == 0
    cleaned = command(env, "cleanup", "--store", tmp_path / "jobs.sqlite")
    assert (cleaned.returncode, cleaned.stderr) == (0, "")
    assert cleaned.stdout.startswith("removed   0 batches, 0 jobs, ")


def test_a_batch_reads_a_pipe_as_it_comes(env: dict[str, str], tmp_path: Path) -> None:
    """The first source is done before the second is written, or the pipe is closed."""
    paths = [write_wav(tmp_path / f"{number}.wav", tone_samples(2.0)) for number in range(2)]
    with subprocess.Popen(
        [*COMMAND, "batch", "-", "--engine", "speech-clock", "--output-dir", tmp_path],
        env=env,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        with watch_names(tmp_path) as names:
            print(paths[0], file=child.stdin, flush=True)
            names.wait_for("00001-0.txt", 60)
        child.stdin.write(str(paths[1]))  # a last line need not end
        _, said = child.communicate(timeout=60)
    assert (child.returncode, said.splitlines()[-1]) == (0, "2 done, 0 failed")
    assert (tmp_path / "00002-1.txt").exists()


def test_a_batch_can_be_interrupted_before_anybody_writes_its_list(env: dict[str, str], tmp_path: Path) -> None:
    """A FIFO whose writer does not come."""
    fifo = tmp_path / "list"
    os.mkfifo(fifo)
    with (
        watch_opens(fifo) as watch,
        subprocess.Popen(
            [*COMMAND, "batch", fifo, "--output-dir", tmp_path], env=env, stderr=subprocess.PIPE, text=True
        ) as child,
    ):
        try:
            assert watch.is_opened_within(60)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=60)
        finally:
            child.kill()
    assert (child.returncode, said) == (130, "memsafe-transcribe: interrupted; nothing is left behind\n")


@pytest.mark.parametrize("name", [os.devnull, "-"])
def test_a_batch_of_nothing_at_all(env: dict[str, str], tmp_path: Path, name: str) -> None:
    """What a scheduler gives as standard input cannot be waited for, and need not be."""
    child = [*COMMAND, "batch", name, "--output-dir", str(tmp_path)]
    done = subprocess.run(child, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "0 done, 0 failed\n")


def test_a_closed_standard_input_is_no_list(env: dict[str, str], tmp_path: Path) -> None:
    """Its descriptor is soon another file's."""
    child = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "batch", "-", "--output-dir", str(tmp_path)]
    done = subprocess.run(child, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "memsafe-transcribe: LIST -: standard input is closed\n")


def test_the_longest_names_can_be_written(env: dict[str, str], tmp_path: Path) -> None:
    """With a number before it and a suffix behind, a name would be too long once all is paid for."""
    audio = write_wav(tmp_path / f"{'ä' * 125}.wav", tone_samples(1.0))
    (tmp_path / "list").write_text(f"{audio}\n")
    out = tmp_path / "out"
    out.mkdir()
    done = command(env, "batch", tmp_path / "list", "--engine", "speech-clock", "--output-dir", out)
    assert (done.returncode, [path.name for path in out.iterdir()]) == (0, [f"00001-{'ä' * 100}.txt"])


@pytest.mark.parametrize("name", ["transcribe", "batch"])
def test_a_timeline_shows_what_failed_too(env: dict[str, str], tmp_path: Path, server: Server, name: str) -> None:
    """Each source is a bar; of a URL's query there is nothing."""
    audio = write_wav(tmp_path / "a <b>.wav", tone_samples(1.0))
    sources = [str(audio), server.url("/gone.mp3?key=secret")]
    (tmp_path / "list.txt").write_text("\n".join(sources))
    what = sources if name == "transcribe" else [tmp_path / "list.txt", "--output-dir", tmp_path]
    drawn = tmp_path / "run.svg"
    done = command(env, name, *what, "--engine", "speech-clock", "--allow-private", "--timeline", drawn)
    assert done.returncode == 1
    assert {(bar.label, bar.ending) for bar in read(drawn).bars} == {
        ("1  a <b>.wav", "complete"),
        ("2  127.0.0.1/gone.mp3", "failed"),
    }
    assert read(drawn).lines["used"]
    assert "secret" not in drawn.read_text()


def test_ctrl_c_leaves_a_timeline(env: dict[str, str], tmp_path: Path) -> None:
    """Of what was done until then, with the job that was stopped."""
    audio = write_long_mp3(tmp_path / "speech.mp3", 600)
    drawn = tmp_path / "run.svg"
    with subprocess.Popen(
        [*COMMAND, "transcribe", str(audio), "--timeline", str(drawn)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().startswith("alice was")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr.splitlines()[-1]) == (
        130,
        "memsafe-transcribe: interrupted; nothing is left behind",
    )
    assert [(bar.label, bar.phases, bar.ending) for bar in read(drawn).bars] == [
        ("1  speech.mp3", ("waiting", "transcribing"), "stopped")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.svg", "speech.mp3"]


def test_memory_is_flat_in_the_length_of_the_audio(env: dict[str, str], tmp_path: Path) -> None:
    """Ten minutes and an hour of stereo MP3 take the same, and far less than 130 MiB for the whole process tree."""
    peaks = []
    for minutes in (10, 60):
        audio = write_long_mp3(tmp_path / f"{minutes}.mp3", minutes * 60)
        done = run_watched([*COMMAND, "transcribe", "--engine", "speech-clock", str(audio)], tmp_path, env)
        assert done.returncode == 0
        assert len(done.stdout.split()) == pytest.approx(minutes * 150, abs=1)
        peaks.append(done.peak_bytes)
    assert max(peaks) < 130 * MIB
    assert abs(peaks[0] - peaks[1]) < 5 * MIB


def test_the_demo_understands_speech(env: dict[str, str]) -> None:
    """Word error rate at most 12 %, with times and the peak of memory."""
    done = command(env, "demo")
    # Where it takes longer than ten seconds, it says how far it is; nothing else.
    progress = r"http://\S+: (waiting for its turn|(downloading|transcribing) \S.*) ?"
    unasked = [line for line in done.stderr.splitlines() if not re.fullmatch(progress, line)]
    assert (done.returncode, unasked) == (0, [])
    rate = re.search(r"word error rate +([0-9.]+) % of 113 words", done.stdout)
    assert rate is not None
    assert 0 < float(rate[1]) <= 12
    assert re.search(r"^\[ +[0-9.]+ - +[0-9.]+\] alice was beginning", done.stdout, re.MULTILINE)
    peak = re.search(r"peak memory +([0-9.]+) MiB", done.stdout)
    assert peak is not None
    assert 100 < float(peak[1]) < 300


def test_doctor_says_what_was_found(env: dict[str, str]) -> None:
    """Limit and what binds, spool, decoder, engines."""
    done = command({**env, "MEMSAFE_LIMIT": "300MiB", "TMPDIR": "/dev/shm"}, "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "limit 300.0 MiB, bound by this process and its descendants (read from MEMSAFE_LIMIT)" in done.stdout
    assert "/dev/shm (tmpfs)" in done.stdout
    assert "files without a name" in done.stdout
    assert "it is memory" in done.stdout
    assert "decoder  works" in done.stdout
    assert "engine   pocketsphinx: ready" in done.stdout
    assert "engine   speech-clock: ready" in done.stdout


def test_a_container_that_is_too_small_is_told_with_figures(env: dict[str, str], tmp_path: Path) -> None:
    """Need, limit, and the setting, before anything is decoded."""
    audio = write_wav(tmp_path / "tone.wav", tone_samples(1.0))
    done = command({**env, "MEMSAFE_LIMIT": "16MiB"}, "transcribe", "--engine", "speech-clock", audio)
    assert (done.returncode, done.stdout) == (1, "")
    assert "can never fit: at most 14.4 MiB of 16.0 MiB may be used" in done.stderr
    assert "MEMSAFE_LIMIT" in done.stderr


def test_engines_are_listed_with_their_limits(env: dict[str, str]) -> None:
    """Ready or not, whose they are, and what each takes; a plugin's as well as our own. A key is not shown."""
    done = command({**env, "OPENAI_API_KEY": "sk-secret"}, "engines")
    assert (done.returncode, done.stderr) == (0, "")
    heads = {line.partition(",")[0]: line for line in done.stdout.splitlines() if not line.startswith(" ")}
    assert heads["openai"] == f"openai, of memsafe-transcribe {mt.__version__}: ready"
    assert re.fullmatch(r"speech-clock, of speech-clock \S+: ready", heads["speech-clock"])
    assert (
        "    chunks up to 600 s, from 0.1 s, 23.8 MiB; 4 at once; times of words; any language; takes a prompt; "
        "32.0 MiB while open, 541.3 KiB for a chunk of 60 s" in done.stdout.splitlines()
    )
    assert "    chunks up to 30 s; 1 at once; times of words; languages en, en-US; no prompt; " in done.stdout
    assert "sk-secret" not in done.stdout
    without = {name: value for name, value in env.items() if not name.startswith("OPENAI_")}
    assert ": no API key: set OPENAI_API_KEY, or pass" in command(without, "engines").stdout


@pytest.mark.parametrize("arguments", [["doctor"], ["transcribe", "--engine", "speech-clock", "x.wav"]])
def test_a_limit_that_is_no_size_is_named(env: dict[str, str], arguments: list[str]) -> None:
    """One line, exit code 2."""
    done = command({**env, "MEMSAFE_LIMIT": "lots"}, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "MEMSAFE_LIMIT" in done.stderr
    assert "'lots' is not a size" in done.stderr


def test_the_container_sets_what_the_command_may_take(env: dict[str, str], server: Server) -> None:
    """The cap on downloads, the slots and the threshold: what has no option is a variable's to say."""
    server.routes["/a.mp3"] = lambda exchange: exchange.answer(bytes(2_000))
    done = command(
        {**env, "MEMSAFE_MAX_DOWNLOAD_BYTES": "1 kB"},
        *("transcribe", "--engine", "speech-clock", "--allow-private", server.url("/a.mp3")),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "2.0 KiB" in done.stderr and "1000 B" in done.stderr
    shown = command({**env, "MEMSAFE_MAX_CONCURRENT": "7", "MEMSAFE_LIMIT": "1GiB"}, "doctor").stdout
    assert "slots    7, 0 taken" in shown


def test_the_demo_in_too_small_a_container_says_so(env: dict[str, str]) -> None:
    """One line with the figures, exit code 1."""
    done = command({**env, "MEMSAFE_LIMIT": "100MiB"}, "demo")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "150.0 MiB can never fit" in done.stderr


def test_json_of_a_damaged_file_says_what_is_missing(env: dict[str, str], tmp_path: Path) -> None:
    """Status "partial" in the document, and a line for people."""
    data = bytearray(SPEECH.read_bytes())
    data[100_000:103_000] = bytes(3000)
    audio = tmp_path / "damaged.mp3"
    audio.write_bytes(data)
    done = command(env, "transcribe", "--engine", "speech-clock", "--format", "json", audio)
    document = json.loads(done.stdout)
    assert (done.returncode, document["status"]) == (0, "partial")
    assert document["gaps"][0]["start"] == pytest.approx(12.5, abs=0.5)
    assert "damaged" in done.stderr
