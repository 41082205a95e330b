"""Makes a variant of a small GGUF file: other or more metadata, the same tensors."""

import struct

HEADER = struct.Struct("<4sIQQ")  # magic, version, tensors, metadata pairs
STRING, ARRAY, UINT32 = 8, 9, 4
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
ALIGNMENT = 32


class Reader:
    def __init__(self, data, at):
        self.data, self.at = data, at

    def take(self, layout):
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values[0] if len(values) == 1 else values

    def string(self):
        length = self.take("Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def skip_value(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            element, count = self.take("IQ")
            for _ in range(count):
                self.skip_value(element)
        else:
            self.at += SIZES[kind]


def packed_string(text):
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def packed(key, value):
    """One metadata pair: text as a string, a number as a uint32."""
    if isinstance(value, str):
        return packed_string(key) + struct.pack("<I", STRING) + packed_string(value)
    return packed_string(key) + struct.pack("<II", UINT32, value)


def aligned(size):
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def variant(source, changes):
    """The bytes of the GGUF file `source` with the metadata `changes` ({key: text or number}) put in."""
    data = source.read_bytes()
    magic, version, tensors, pairs = HEADER.unpack_from(data)
    reader = Reader(data, HEADER.size)
    kept = []
    for _ in range(pairs):
        start = reader.at
        key = reader.string().decode("utf-8")
        reader.skip_value(reader.take("I"))
        if key not in changes:
            kept.append(data[start : reader.at])
    kept += [packed(key, value) for key, value in changes.items()]
    table_start = reader.at
    for _ in range(tensors):
        reader.string()
        dimensions = reader.take("I")
        reader.at += 8 * dimensions + 4 + 8  # sizes, type, offset
    head = HEADER.pack(magic, version, tensors, len(kept)) + b"".join(kept) + data[table_start : reader.at]
    return head.ljust(aligned(len(head)), b"\0") + data[aligned(reader.at) :]
