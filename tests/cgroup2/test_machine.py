"""The machine's harness: all of it that needs no machine."""

import json
import lzma
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from . import kernel, machine
from .kernel import MachineError

FILES = {name: f"/files/{name}" for name in ("kernel", "initrd", "disk", "console", "report")}
DEBIAN = {
    "linux-image-amd64": "Version: 6.1.192-2\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n",
    "linux-image-6.1.0-56-amd64": "Version: 6.1.192-2\nDepends: kmod, linux-base (>= 4.3~), initramfs-tools | dracut\n",
}
UBUNTU = {
    "linux-image-generic": "Version: 6.8.0-60.63\nDepends: linux-image-6.8.0-60-generic, linux-modules-extra-6.8.0-60-"
    "generic, linux-firmware, intel-microcode\n",
    "linux-image-6.8.0-60-generic": "Version: 6.8.0-60.63\nDepends: kmod, linux-base, linux-modules-6.8.0-60-generic\n",
    "linux-modules-6.8.0-60-generic": "Version: 6.8.0-60.63\nBuilt-Using: linux\n",
    "linux-modules-extra-6.8.0-60-generic": "Version: 6.8.0-60.63\n"
    "Depends: linux-image-6.8.0-60-generic | linux-image-unsigned-6.8.0-60-generic, wireless-regdb\n",
}


def unpacked(archives: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Name, mode, and content of each entry of cpio archives that stand one after another."""
    at = 0
    while at < len(archives):
        assert archives[at : at + 6] == b"070701" and at % 4 == 0
        fields = [int(archives[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = archives[at + 110 : at + 110 + fields[11]].rstrip(b"\0").decode()
        at += -(-(110 + fields[11]) // 4) * 4
        yield name, fields[1], archives[at : at + fields[6]]
        at += -(-fields[6] // 4) * 4


def test_the_command_is_all_that_follows_the_first_dashes() -> None:
    """Options and further dashes of the command's own reach it untouched, and are none of ours."""
    options = machine.parse(
        ["--memory", "512", "--cpus", "1", "--seconds", "9", "--", "run", "--kvm", "--", "--memory"]
    )
    assert (options.memory, options.cpus, options.seconds, options.kvm) == (512, 1, 9, False)
    assert options.command == ["run", "--kvm", "--", "--memory"]


def test_nothing_is_installed_unless_asked() -> None:
    """The defaults touch no system."""
    options = machine.parse(["--", "true"])
    assert (options.install, options.kvm, options.memory, options.cpus, options.seconds) == (False, False, 2048, 2, 600)


@pytest.mark.parametrize(
    "arguments", [[], ["--"], ["true"], ["--mem", "9", "--", "true"], ["--cpus", "0", "--", "true"]], ids=" ".join
)
def test_what_cannot_be_understood_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No command, a command without dashes, shortened options, and numbers below one are usage errors."""
    with pytest.raises(SystemExit, match=r"^2$"):
        machine.parse(arguments)
    assert "usage: machine" in capsys.readouterr().err


@given(words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)))
def test_every_word_of_the_command_survives_the_shell(words: list[str]) -> None:
    """Blanks, quotes, newlines, dollars, and stars are none of the shell's business."""
    script = machine.command_script(["printf", "%s\\0", "first", *words], Path("/"), {"PATH": "/usr/bin:/bin"})
    said = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True).stdout
    assert said.decode() == "\0".join(["first", *words, ""])


def test_the_command_runs_in_the_callers_folder_and_environment(tmp_path: Path) -> None:
    """PATH, HOME, and the folder are the caller's, whatever characters they hold; temporary files go to the disk."""
    folder = tmp_path / "it's a 'folder' of $HOME"
    folder.mkdir()
    look = "import json, os; print(json.dumps([os.getcwd(), *map(os.environ.get, ('PATH', 'HOME', 'TMPDIR'))]))"
    script = machine.command_script([sys.executable, "-c", look], folder, {"PATH": "/a b:$c", "HOME": "/h'"})
    said = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True).stdout
    assert json.loads(said) == [str(folder), "/a b:$c", "/h'", "/mnt"]


def test_a_command_is_a_program_and_no_builtin() -> None:
    """`exit` is not found, instead of ending the machine's own shell."""
    script = machine.command_script(["exit", "3"], Path("/"), {})
    assert subprocess.run(["/bin/sh", "-c", script], capture_output=True).returncode == 127


@pytest.mark.parametrize("folder", ["/mnt", "/mnt/project", "/run/user/1000"])
def test_a_folder_that_the_machine_hides_is_refused(folder: str) -> None:
    """Before anything is booted, by the name of what hides it."""
    with pytest.raises(MachineError, match=f"a /{folder.split('/')[1]} of its own"):
        machine.command_script(["true"], Path(folder), {})


def test_the_machine_is_as_the_user_wants_it_and_cannot_write_to_this_one() -> None:
    """Memory, processors, and the kernel's line are passed on; this machine's files are exported read-only."""
    options = machine.parse(["--memory", "300", "--cpus", "3", "--", "true"])
    command = machine.qemu_command(options, FILES)
    following = dict(pairwise(command))
    assert (following["-m"], following["-smp"], following["-append"]) == ("300", "3", machine.KERNEL_LINE)
    assert {"psi=1", "cgroup_no_v1=all"} <= set(machine.KERNEL_LINE.split())
    assert "readonly=on" in following["-fsdev"].split(",")
    assert command[:3] == ["setpriv", "--pdeathsig", "KILL"]
    assert all(any(path in word for word in command) for path in FILES.values())


@pytest.mark.parametrize(("flag", "accelerator"), [([], "tcg,thread=multi"), (["--kvm"], "kvm")], ids=["plain", "kvm"])
def test_the_processor_is_emulated_unless_asked(flag: list[str], accelerator: str) -> None:
    """A /dev/kvm that is there and does not work is common, and QEMU dies of it instead of falling back."""
    command = machine.qemu_command(machine.parse([*flag, "--", "true"]), FILES)
    assert [after for word, after in pairwise(command) if word == "-accel"] == [accelerator]


@given(edges=st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=8), data=st.data())
def test_modules_come_after_what_they_depend_on(edges: list[list[int]], data: st.DataObject) -> None:
    """In any graph: all that is wanted or needed, each once, and none before its own dependencies."""
    depends = {str(n): [str(each) for each in each_edges if each < n] for n, each_edges in enumerate(edges)}
    wanted = data.draw(st.lists(st.sampled_from(sorted(depends))))
    order = kernel.module_order(wanted, depends.__getitem__)
    assert len(order) == len(set(order)) and set(wanted) <= set(order)
    for name in order:
        assert set(depends[name]) <= set(order[: order.index(name)])


@pytest.mark.parametrize(
    ("information", "names"),
    [
        (b"license=GPL\0depends=jbd2,mbcache,crc16\0retpoline=Y\0", ["jbd2", "mbcache", "crc16"]),
        (b"license=GPL\0depends=virtio-ring\0", ["virtio_ring"]),
        (b"license=GPL\0depends=\0", []),
        (b"license=GPL\0", []),
    ],
    ids=["several", "hyphen", "empty", "absent"],
)
def test_a_module_says_what_it_depends_on(information: bytes, names: list[str]) -> None:
    """Read from the file itself, for the package has no table of it; names as the kernel writes them."""
    assert kernel.module_depends(b"\x7fELF\0" + information) == names


def test_modules_are_found_packed_or_built_in(tmp_path: Path) -> None:
    """Compressed ones are unpacked, built-in ones left out, and a kernel that lacks one says which."""
    folder = tmp_path / "lib" / "modules" / "6"
    folder.mkdir(parents=True)
    names = [name for name in kernel.MODULES if name not in {"virtio_pci", "crc32c_generic"}]
    for name in names:
        (folder / f"{name.replace('_', '-')}.ko").write_bytes(b"\0depends=\0")
    (folder / "virtio-blk.ko").unlink()
    (folder / "virtio_blk.ko.xz").write_bytes(lzma.compress(b"\0depends=overlay\0"))
    with pytest.raises(MachineError, match=r"^the kernel has no virtio_pci$"):
        kernel.kernel_modules(tmp_path)
    (folder / "modules.builtin").write_text("kernel/drivers/virtio/virtio-pci.ko\n")
    assert list(kernel.kernel_modules(tmp_path)) == ["overlay", *names[:-1]]
    assert kernel.kernel_modules(tmp_path)["virtio_blk"] == b"\0depends=overlay\0"


def test_archives_can_be_put_one_after_another() -> None:
    """What the kernel reads from them: folders before what they hold, names and contents of any length."""
    files = {"init": b"#!", "a/b/c": b"12345", "modules/order": b""}
    entries = list(unpacked(kernel.archive(files) + kernel.archive({"guest": b"x" * 99})))
    assert [(name, data) for name, mode, data in entries if stat.S_ISREG(mode)] == [
        *files.items(),
        ("guest", b"x" * 99),
    ]
    assert [name for name, mode, _ in entries if stat.S_ISDIR(mode)] == ["a", "a/b", "modules"]
    assert [name for name, _, _ in entries].count("TRAILER!!!") == 2


@pytest.mark.parametrize(
    ("known", "packages"),
    [
        (DEBIAN, ["linux-image-6.1.0-56-amd64"]),
        (
            UBUNTU,
            [
                "linux-image-6.8.0-60-generic",
                "linux-modules-extra-6.8.0-60-generic",
                "linux-modules-6.8.0-60-generic",
            ],
        ),
        ({}, []),
    ],
    ids=["Debian", "Ubuntu", "no lists"],
)
def test_the_newest_kernel_and_its_modules_are_found(known: dict[str, str], packages: list[str]) -> None:
    """In Debian one package holds both, in Ubuntu they are spread; where apt knows nothing, nothing is found."""
    found = kernel.kernel_packages(lambda name: known.get(name, ""))
    assert list(found) == packages
    assert list(found.values()) == [known[name].split()[1] for name in packages]


def test_a_kernel_is_built_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that fails leaves nothing; one that ends is kept under its version, and serves without apt's lists."""

    def build(work: Path, packages: Sequence[str]) -> Path:
        assert packages == ["linux-image-6.1.0-56-amd64=6.1.192-2", "busybox-static"]
        (work / "built").mkdir()
        if failing:
            raise MachineError("no network")
        return work / "built"

    monkeypatch.setattr(kernel, "build", build)
    monkeypatch.setattr(kernel, "apt_show", lambda name: DEBIAN.get(name, ""))
    failing = True
    with pytest.raises(MachineError, match="no network"):
        kernel.kernel_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    failing = False
    built = kernel.kernel_folder(tmp_path)
    assert list(tmp_path.iterdir()) == [built]
    assert built.name.startswith("linux-image-6.1.0-56-amd64_6.1.192-2-")
    monkeypatch.setattr(kernel, "build", None)
    assert kernel.kernel_folder(tmp_path) == built
    monkeypatch.setattr(kernel, "apt_show", lambda name: "")
    assert kernel.kernel_folder(tmp_path) == built
    built.rmdir()
    with pytest.raises(MachineError, match="apt-get update"):
        kernel.kernel_folder(tmp_path)


@pytest.mark.parametrize(("report", "code"), [("up\ncode=0\n", 0), ("up\ncode=137\n", 137)])
def test_the_commands_exit_code_is_passed_on(report: str, code: int) -> None:
    """Even where the time was over in the same moment."""
    assert machine.verdict(report, "", False, 9) == machine.verdict(report, "", True, 9) == code


def test_a_command_that_takes_too_long_has_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """It is not taken for a machine that did not come up."""
    assert machine.verdict("up\n", "", True, 9) == machine.TOO_LONG
    assert "ran past 9 seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("report", "expired", "what"),
    [("", False, "did not come up"), ("", True, "did not come up"), ("up\n", False, "went")],
)
def test_a_machine_that_fails_says_its_last_words(report: str, expired: bool, what: str) -> None:
    """The end of its console stands in the error."""
    with pytest.raises(MachineError, match=f"(?s)the machine {what}.*  last words$") as caught:
        machine.verdict(report, "first\n" * 9 + "\n\nlast words\r\n\n", expired, 9)
    assert str(caught.value).count("first") == 4


def test_missing_packages_are_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing is installed, fetched, or written, and the exit code is that of a machine that did not come up."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None if name in machine.PROGRAMS else f"/usr/bin/{name}")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert machine.main(["--", "true"]) == machine.NOT_UP
    said = capsys.readouterr()
    install = "apt-get install e2fsprogs qemu-system-x86 util-linux"
    assert said.err == f"machine: missing packages: {install} (or run this once with --install)\n"
    assert (said.out, list(tmp_path.iterdir())) == ("", [])


def test_output_is_passed_on_as_it_is(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Byte by byte, and to the end."""
    command = [sys.executable, "-c", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"]
    assert machine.forward(command, [], 60) is False
    assert capfdbinary.readouterr().out == bytes(range(256)) * 1000


def test_a_machine_is_killed_when_its_time_is_over() -> None:
    """And that is told apart from one that ended."""
    assert machine.forward(["sleep", "60"], [], 0) is True


@pytest.mark.parametrize("name", ["init.sh", "guest.sh"])
def test_the_scripts_are_shell(name: str) -> None:
    """As far as a shell can tell without running them."""
    subprocess.run(["/bin/sh", "-n", Path(machine.__file__).with_name(name)], check=True)
