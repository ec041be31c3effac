"""tar and zstd without their programs: `unpack ARCHIVE FOLDER`, or `--pack ARCHIVE < tar`."""

import sys
import tarfile

import zstandard

if sys.argv[1] == "--pack":
    with open(sys.argv[2], "wb") as out:
        zstandard.ZstdCompressor(level=6, threads=8).copy_stream(sys.stdin.buffer, out)
else:
    with open(sys.argv[1], "rb") as file:
        stream = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(file)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            archive.extractall(sys.argv[2], filter="data")
