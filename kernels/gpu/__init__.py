"""The operations of Kimi Linear for NVIDIA GPUs, in Triton. A file holds an operation; what it computes is defined in
the file of the same name above this package.

Nothing here is imported on a machine without a GPU: the package needs triton. Every kernel has one configuration for a
shape, chosen by rule and never by trial runs: two processes must add in the same order. Sums have a fixed order and no
atomics, so a row's bits do not depend on the rows beside it.
"""

REVISION = "g2"  # changes whenever a result may change by a bit; part of every reading's fingerprint
