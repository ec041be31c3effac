"""From where on one curve lies below another."""

import math
from collections.abc import Mapping


def crossing(falls: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """The length from which on ``falls`` stays below ``other``, both {length: cost}, costs above zero.

    Between two lengths the ratio of the costs is taken for a power of the length. 0: below at every length that both
    have. None: not below at the longest of them.
    """
    lengths = sorted(falls.keys() & other.keys())
    gaps = [math.log(falls[n] / other[n]) for n in lengths]
    above = [i for i, gap in enumerate(gaps) if gap >= 0]
    if not above:
        return 0.0 if lengths else None
    i = above[-1]
    if i == len(gaps) - 1:
        return None
    share = gaps[i] / (gaps[i] - gaps[i + 1])
    return lengths[i] * (lengths[i + 1] / lengths[i]) ** share
