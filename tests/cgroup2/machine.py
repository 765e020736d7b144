"""Run a command on a real Linux kernel with cgroup v2, in an emulated machine that sees this one's files read-only.

    python -m tests.cgroup2.machine [--install] [--memory MIB] [--cpus N] [--seconds S] [--kvm] -- COMMAND...

The command runs as root in the current folder, with the caller's PATH and HOME; its output comes out here, and its exit
code is this program's. 97: the machine did not come up. 124: it ran past `--seconds`. In the machine:

    /                 this machine's files; what is written there is forgotten (and O_TMPFILE fails there in kernel 6.1)
    /mnt              a real ext4 disk, which is also TMPDIR
    /dev/shm          memory (tmpfs)
    /sys/fs/cgroup    cgroup v2 with the memory, cpu, and pids controllers on; and there is /proc/pressure
    127.0.0.1         up; there is no other network

It needs x86-64 Debian or Ubuntu with QEMU, and root only for `--install`. Nothing is left behind but a kernel and its
initrd in ${XDG_CACHE_HOME:-~/.cache}/memsafe-transcribe/cgroup2. Emulation is some ten times slower than this machine:
good for what the kernel counts, kills, and reports, not for timings.
"""

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from .kernel import MachineError, apt_show, archive, kernel_folder, kernel_packages, run

NOT_UP, TOO_LONG, INTERRUPTED = 97, 124, 130
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "/sbin/mkfs.ext4": "e2fsprogs", "setpriv": "util-linux"}
KERNEL_LINE = "console=ttyS0 quiet panic=-1 psi=1 cgroup_no_v1=all"
HIDDEN = ("dev", "mnt", "proc", "run", "sys")  # folders of which the machine has its own
DISK_BYTES = 4 << 30
GUEST = Path(__file__).with_name("guest.sh").read_bytes()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options before the first `--`, and the command after it, whatever that holds."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="machine", usage="%(prog)s [options] -- COMMAND...", allow_abbrev=False)
    parser.add_argument("--install", action="store_true", help="install missing apt packages (as root)")
    parser.add_argument("--memory", type=positive, default=2048, metavar="MIB", help="the machine's memory")
    parser.add_argument("--cpus", type=positive, default=2, metavar="N", help="the machine's processors")
    parser.add_argument("--seconds", type=positive, default=600, metavar="S", help="kill it after that time")
    parser.add_argument("--kvm", action="store_true", help="use this machine's processor: fast, where KVM works")
    options = parser.parse_args(arguments[:cut])
    options.command = list(arguments[cut + 1 :])
    if not options.command:
        parser.error("no command; write it after --")
    return options


def positive(text: str) -> int:
    """A whole number of at least one, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def command_script(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """The caller's part of what the machine runs, as a shell script in which every word is quoted.

    Raises:
        MachineError: The folder is one of those that the machine does not share with the caller.
    """
    if folder.parts[1:2] and folder.parts[1] in HIDDEN:
        raise MachineError(f"the machine has a /{folder.parts[1]} of its own; start it from another folder")
    path, home = environment.get("PATH", os.defpath), environment.get("HOME", "/root")
    return (
        f"export PATH={shlex.quote(path)} HOME={shlex.quote(home)} TMPDIR=/mnt\n"
        f"cd -- {shlex.quote(str(folder))} || exit {NOT_UP}\n"
        f"exec {shlex.join(command)}\n"
    )


def qemu_command(options: argparse.Namespace, files: Mapping[str, str]) -> list[str]:
    """The emulator's command line, which dies with its parent.

    Args:
        options: The user's.
        files: Where `kernel`, `initrd`, `disk`, `console`, and `report` are.
    """
    accelerator = ("-accel", "kvm", "-cpu", "host") if options.kvm else ("-accel", "tcg,thread=multi", "-cpu", "max")
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none", "-nic", "none", *accelerator),
        *("-m", str(options.memory), "-smp", str(options.cpus)),
        *("-kernel", files["kernel"], "-initrd", files["initrd"], "-append", KERNEL_LINE),
        *("-drive", f"file={files['disk']},format=raw,if=virtio,cache=unsafe"),
        *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
        *("-serial", f"file:{files['console']}", "-device", "virtio-serial-pci"),
        *("-chardev", "file,id=output,path=/proc/self/fd/1", "-device", "virtserialport,chardev=output,nr=1"),
        *("-chardev", f"file,id=report,path={files['report']}", "-device", "virtserialport,chardev=report,nr=2"),
    ]


def verdict(report: str, console: str, expired: bool, seconds: int) -> int:
    """The exit code, from what the machine reported.

    Raises:
        MachineError: It did not come up, or went down before the command's end; with the end of its console.
    """
    if code := re.search(r"^code=(\d+)$", report, re.MULTILINE):
        return int(code[1])
    if expired and "up" in report:
        sys.stderr.write(f"machine: the command ran past {seconds} seconds\n")
        return TOO_LONG
    in_time = f" in {seconds} seconds" if expired else ""
    what = "went down before the command's end" if "up" in report else f"did not come up{in_time}"
    last = [line for line in console.splitlines() if line.strip()][-5:] or ["nothing"]
    raise MachineError("\n  ".join([f"the machine {what}; the last on its console:", *last]))


def require_programs(install: bool) -> None:
    """Install what is missing, or say what to install."""
    if platform.machine() != "x86_64" or not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb"))):
        raise MachineError("needs Debian or Ubuntu on x86-64")
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing and not install:
        raise MachineError(f"missing packages: apt-get install {' '.join(missing)} (or run this once with --install)")
    if install and (missing or not kernel_packages(apt_show)):
        run("apt-get", "update", "-qq")
    if missing:
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


def boot(options: argparse.Namespace, kernel: Path) -> int:
    """Boot, let the command run, and pass its output on; its exit code. The files have no names: none can be left."""
    script = command_script(options.command, Path.cwd(), os.environ).encode()
    with ExitStack() as stack:
        names = ("initrd", "disk", "console", "report")
        opened = {name: stack.enter_context(tempfile.TemporaryFile(dir=kernel.parent)) for name in names}
        paths = {name: f"/proc/self/fd/{file.fileno()}" for name, file in opened.items()}
        descriptors = [file.fileno() for file in opened.values()]
        opened["initrd"].write((kernel / "initrd").read_bytes() + archive({"guest": GUEST, "command": script}))
        opened["initrd"].flush()
        opened["disk"].truncate(DISK_BYTES)
        run("/sbin/mkfs.ext4", "-q", "-F", paths["disk"], files=descriptors)
        command = qemu_command(options, {**paths, "kernel": str(kernel / "vmlinuz")})
        expired = forward(command, descriptors, options.seconds)
        report, console = (opened[name].read().decode(errors="replace") for name in ("report", "console"))
    return verdict(report, console, expired, options.seconds)


def forward(command: Sequence[str], files: Sequence[int], seconds: int) -> bool:
    """Run a program to its end and pass its output on; whether it had to be killed because its time was over."""
    with subprocess.Popen(command, pass_fds=files, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            while piece := os.read(process.stdout.fileno(), 1 << 16):
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            process.wait()
            return timer.finished.is_set()
        finally:
            timer.cancel()
            process.kill()


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments say; the exit code."""
    options = parse(arguments)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memsafe-transcribe" / "cgroup2"
    try:
        require_programs(options.install)
        cache.mkdir(parents=True, exist_ok=True)
        return boot(options, kernel_folder(cache))
    except MachineError as error:
        sys.stderr.write(f"machine: {error}\n")
        return NOT_UP
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
