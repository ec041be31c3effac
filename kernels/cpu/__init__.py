"""The CPU's kernels in C++, compiled once by the set-up (build.py) and called through ctypes (library.py, ops.py).

What a row becomes depends on that row and on what stands before it in its sequence: not on how many rows a call has,
on where a sequence was cut into calls, on threads, or on the instruction set. docs/decisions/0005 has the reasons.
"""

REVISION = "c2"  # changes whenever a result may change by a bit; part of every reading's fingerprint
