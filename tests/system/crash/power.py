# SPDX-License-Identifier: MIT
"""What a disk would hold if its power had failed at some moment, by what tests/preload/disk.c has recorded.

Of each file, all is there that was written before a sync of it had ended; of what was written since, a part that chance
decides, sector by sector, as disks do.
"""

import struct

RECORD = struct.Struct("=qqqIBB2x")
SUFFIXES = {1: "", 2: "-wal", 3: "-journal"}
SECTOR = 512


class Change:
    def __init__(self, begin, end, offset, kind, file, data):
        self.begin, self.end, self.offset, self.kind, self.file, self.data = begin, end, offset, kind, file, data


def read_trace(path):
    data, at, out = path.read_bytes(), 0, []
    while at + RECORD.size <= len(data):
        begin, end, offset, length, kind, file = RECORD.unpack_from(data, at)
        at += RECORD.size
        out.append(Change(begin / 1e6, end / 1e6, offset, chr(kind), file, data[at:at + length]))
        at += length
    return out


def put(content, offset, data):
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset:offset + len(data)] = data


def apply(content, change, rng=None):
    """Applies a change, or with `rng` what chance leaves of it. Returns the content, None for a file that is gone."""
    if rng and change.kind in "CU" and rng.random() < 0.5:
        return content
    if change.kind == "U":
        return None
    content = bytearray() if content is None else content
    if change.kind == "C":
        del content[change.offset:]
        put(content, change.offset, b"")
    elif not rng:
        put(content, change.offset, change.data)
    else:
        for i in range(0, len(change.data), SECTOR):
            if rng.random() < 0.5:
                put(content, change.offset + i, change.data[i:i + SECTOR])
    return content


def after_power_failure(trace, moment, rng, database):
    """Writes the files as they would be found, beside `database`."""
    for file, suffix in SUFFIXES.items():
        changes = [c for c in trace if c.file == file and c.begin <= moment]
        synced = max((i for i, c in enumerate(changes) if c.kind == "S" and c.end <= moment), default=-1)
        content = None
        for i, c in enumerate(changes):
            if c.kind != "S":
                content = apply(content, c, rng if i > synced else None)
        if content is not None:
            database.with_name(database.name + suffix).write_bytes(content)
