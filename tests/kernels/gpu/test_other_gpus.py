"""No kernel asks for more shared memory than the smallest GPUs we name have: compiled for them, no GPU needed."""

import os
import subprocess
import sys


def test_the_kernels_fit_where_a_block_has_99_kilobytes():
    named = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu_compile", "--capability", "86"], env=named, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = {line.split('"kernel": "')[1].split('"')[0] for line in done.stdout.splitlines()}
    assert {"_scan", "_decode", "_attend_kernel", "_read_split", "_pair_up", "_matmul"} <= kernels
