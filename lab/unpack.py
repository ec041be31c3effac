"""tar and its compressors without their programs: `unpack ARCHIVE FOLDER`, or `--pack ARCHIVE < tar` (.xz or .zst)."""

import lzma
import sys
import tarfile

import zstandard

TOKENS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 1}]  # two bytes a token


def pack(name: str) -> None:
    if name.endswith(".xz"):
        with lzma.open(name, "wb", filters=TOKENS) as out:
            while piece := sys.stdin.buffer.read(2**20):
                out.write(piece)
    else:
        with open(name, "wb") as file:
            zstandard.ZstdCompressor(level=6, threads=8).copy_stream(sys.stdin.buffer, file)


def unpack(name: str, folder: str) -> None:
    if name.endswith(".xz"):
        with tarfile.open(name, mode="r|xz") as archive:
            archive.extractall(folder, filter="data")
    else:
        with open(name, "rb") as file:
            stream = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(file)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                archive.extractall(folder, filter="data")


if __name__ == "__main__":
    pack(sys.argv[2]) if sys.argv[1] == "--pack" else unpack(*sys.argv[1:])
