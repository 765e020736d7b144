"""The machine's kernel and initrd: fetched from the distribution once, built, and kept, by the kernel's version."""

import hashlib
import lzma
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

KERNELS = ("linux-image-amd64", "linux-image-generic")  # the newest kernel's name in Debian, and in Ubuntu
# ext4 asks for crc32c by name at run time, which its file does not tell; newer kernels have that built in.
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "9pnet_virtio", "9p", "crc32c_generic", "ext4", "overlay")
OPTIONAL = {"crc32c_generic"}
INIT = Path(__file__).with_name("init.sh").read_bytes()


class MachineError(Exception):
    """The machine cannot be built or did not come up; the message is for the user."""


def module_order(wanted: Iterable[str], depends: Callable[[str], Iterable[str]]) -> list[str]:
    """The wanted modules and all that they depend on, each once, and after its own dependencies."""
    order: list[str] = []
    for name in wanted:
        order += [each for each in [*module_order(depends(name), depends), name] if each not in order]
    return order


def module_depends(content: bytes) -> list[str]:
    """What a module's own file says that it depends on."""
    found = re.search(rb"\0depends=([^\0]*)\0", content)
    return [name for name in found[1].decode().replace("-", "_").split(",") if name] if found else []


def archive(files: Mapping[str, bytes]) -> bytes:
    """Executable files and the folders that they lie in, as the kernel takes them in an initrd (cpio, "newc").

    Several can be put one after another.
    """

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    def entry(name: str, mode: int, data: bytes = b"") -> bytes:
        path = name.encode() + b"\0"
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        return padded(b"070701" + b"".join(b"%08X" % field for field in fields) + path) + padded(data)

    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    entries = [entry(name, stat.S_IFDIR | 0o755) for name in sorted(folders)]  # a folder sorts before what it holds
    entries += [entry(name, stat.S_IFREG | 0o755, data) for name, data in files.items()]
    return b"".join([*entries, entry("TRAILER!!!", 0)])


def kernel_packages(show: Callable[[str], str]) -> dict[str, str]:
    """The packages that hold the newest kernel and its modules, each with its version; empty where none is known.

    Args:
        show: Gives what apt knows of a package, as control fields, or nothing.
    """

    def linked(text: str) -> list[str]:
        depends = re.search(r"^Depends: (.*)$", text, re.MULTILINE)
        return re.findall(r"\blinux-(?:image|modules)-(?:extra-)?\d[\w.+-]*", depends[1]) if depends else []

    found: dict[str, str] = {}
    names = linked(next(filter(None, map(show, KERNELS)), ""))
    for name in names:  # which grows on the way
        if name not in found and (version := re.search(r"^Version: (.*)$", text := show(name), re.MULTILINE)):
            found[name] = version[1]
            names += linked(text)
    return found


def run(*command: str, folder: Path | None = None, files: Sequence[int] = ()) -> bytes:
    """Run a tool of this machine; its output.

    Raises:
        MachineError: It failed; with the last line that it said.
    """
    done = subprocess.run(command, cwd=folder, pass_fds=files, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise MachineError(f"{command[0]}: {said.splitlines()[-1]}")
    return done.stdout


def apt_show(package: str) -> str:
    """What apt knows of the newest version of a package; nothing where it does not know it."""
    command = ("apt-cache", "show", "--no-all-versions", package)
    return subprocess.run(command, capture_output=True, text=True).stdout


def kernel_folder(cache: Path) -> Path:
    """The folder with `vmlinuz` and `initrd` of the newest kernel, fetched and built where it is not there yet."""
    recipe = hashlib.sha256(INIT + repr(MODULES).encode()).hexdigest()[:8]
    packages = kernel_packages(apt_show)
    if not packages:  # apt's lists were cleared, as in most images; what is cached still serves
        cached = sorted(cache.glob(f"*-{recipe}"), key=lambda path: path.stat().st_mtime)
        if not cached:
            raise MachineError("apt knows no kernel: apt-get update (or run this once with --install)")
        return cached[-1]
    name, version = next(iter(packages.items()))
    target = cache / f"{name}_{version}-{recipe}"
    if not target.exists():
        sys.stderr.write(f"machine: fetching {name} {version}, once\n")
        with tempfile.TemporaryDirectory(prefix="building-", dir=cache) as work:
            built = build(Path(work), [*map("=".join, packages.items()), "busybox-static"])
            try:
                built.rename(target)
            except OSError:
                if not target.exists():  # else another one was faster
                    raise
    return target


def build(work: Path, packages: Sequence[str]) -> Path:
    """Fetch packages into a folder and make of them another one, with `vmlinuz` and `initrd`."""
    tree, built = work / "tree", work / "built"
    built.mkdir()
    run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages, folder=work)
    for package in work.glob("*.deb"):
        run("dpkg-deb", "-x", str(package), str(tree))
    shutil.copyfile(next(tree.glob("boot/vmlinuz-*")), built / "vmlinuz")
    modules = {f"{name}.ko": content for name, content in kernel_modules(tree).items()}
    files = {"init": INIT, "bin/busybox": next(tree.glob("**/bin/busybox")).read_bytes()}
    files["modules/order"] = "".join(f"{name}\n" for name in modules).encode()
    files |= {f"modules/{name}": content for name, content in modules.items()}
    (built / "initrd").write_bytes(archive(files))
    return built


def kernel_modules(tree: Path) -> dict[str, bytes]:
    """The modules that the machine needs, unpacked, in the order in which they are to be loaded."""
    paths = {path.name.partition(".")[0].replace("-", "_"): path for path in tree.rglob("*.ko*")}
    builtin = "".join(path.read_text().replace("-", "_") for path in tree.rglob("modules.builtin"))
    absent = [name for name in MODULES if name not in {*paths, *OPTIONAL} and f"/{name}.ko\n" not in builtin]
    if absent:
        raise MachineError(f"the kernel has no {', '.join(absent)}")
    wanted = [name for name in MODULES if name in paths]
    return {name: unpacked(paths[name]) for name in module_order(wanted, lambda n: module_depends(unpacked(paths[n])))}


def unpacked(path: Path) -> bytes:
    """A module's content; busybox loads none that is compressed."""
    if path.suffix == ".zst":
        return run("zstd", "-dcq", str(path))
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
