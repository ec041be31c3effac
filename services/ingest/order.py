"""The order in which a repository's files are read: what changes often comes last.

A new version shares the reading of the old one up to the first file that differs. So the files that the version before
began with stay in front, as long as they are the same; behind them the steady ones come first.
"""

import re
from collections.abc import Mapping
from itertools import takewhile

from services.ingest.types import Known

KINDS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(^|/)docs?/|\.(md|mdx|markdown|rst|adoc|txt)$",
        r"(^|/)readme(\.\w+)?$",
        r"(^|/)(changelog|changes|history|news|releases?)(\.\w+)?$",
        r"(^|/)(_?version(\.\w+)?|package\.json|pyproject\.toml|cargo\.toml|setup\.(py|cfg)|go\.mod|pom\.xml)$",
        r"\.lock$|(^|/)([\w-]+-lock\.\w+|go\.sum|constraints[\w-]*\.txt|requirements[\w-]*\.txt)$",
        r"(^|/)(\.github|\.gitlab|\.circleci|\.ci)/|(^|/)(\.gitlab-ci\.yml|\.travis\.yml|jenkinsfile|azure-pipelines\.yml)$",
    )
)


def arranged(digests: Mapping[str, str], known: Known) -> list[str]:
    """Paths in reading order. `digests`: path -> sha256 of every file that is read."""
    front = [path for path, _ in takewhile(lambda file: digests.get(file[0]) == file[1], known.before)]
    counts = {path: count for path, count in known.changes}
    rest = digests.keys() - set(front)
    return [*front, *sorted(rest, key=lambda path: (bucket(counts.get(path, 0)), volatility(path), path))]


def bucket(commits: int) -> int:
    """log2 of how many commits touched a file: one commit more seldom moves it."""
    return max(commits, 1).bit_length() - 1


def volatility(path: str) -> int:
    """0 for sources and tests; then documentation, README, changelogs, version files, lock files, CI."""
    return max((n for n, kind in enumerate(KINDS, 1) if kind.search(path)), default=0)
