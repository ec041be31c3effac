"""Rooms of this project's own source as an archive: the repository that the demo reads."""

import gzip
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "services/agent")  # some 50,000 tokens: a minute or two on two cores; all of it is 300,000
TOO_LONG = "kernels/gpu/"  # as long again as the others together


def own_source(folder: Path) -> Path:
    """A tar.gz of the Python files of the rooms, those git knows when this is a checkout."""
    target = folder / "shiori.tar.gz"
    with gzip.GzipFile(target, "wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for path in chosen():
            archive.add(ROOT / path, f"shiori/{path}", filter=_plain)
    return target


def chosen() -> list[str]:
    sources = (name for name in listed() if name.endswith(".py") and not name.startswith(TOO_LONG))
    return sorted(name for name in sources if (ROOT / name).stat().st_size > 0)


def listed() -> list[str]:
    """What git knows, or, without git, what is there."""
    command = ["git", "-C", str(ROOT), "ls-files", "--", *ROOMS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]
    return [str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*.py")]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same bytes each time, so that the same source is known again."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
