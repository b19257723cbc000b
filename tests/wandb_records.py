"""The records of an offline W&B run, by W&B's own messages; its file is a LevelDB log."""

import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32_768, 7  # bytes; W&B's own header, at the start, is as long as that of a chunk
FULL, LAST = 1, 4  # kinds of chunks that end a record


def records_of(path: Path) -> list[Record]:
    """All records of a `run-*.wandb`."""
    return [Record.FromString(data) for data in _records(path.read_bytes())]


def _records(log: bytes) -> Iterator[bytes]:
    assert log.startswith(b":W&B")
    position, record = HEADER, b""
    while position + HEADER <= len(log):
        if BLOCK - position % BLOCK < HEADER:  # too short for a chunk: the block is filled up
            position += BLOCK - position % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", log, position + 4)
        position += HEADER
        record += log[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield record
            record = b""
