"""Small ICC profiles with known arithmetic."""

import struct

D50 = (0.9642, 1.0, 0.8249)
SRGB_PRIMARIES = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def linear_rgb() -> bytes:
    """sRGB's primaries with a linear scale: converting to sRGB is sRGB's transfer function alone."""
    colours = zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, SRGB_PRIMARIES), strict=True)
    scales = ((name, _gamma_one()) for name in (b"rTRC", b"gTRC", b"bTRC"))
    return _profile(b"RGB ", dict([*colours, *scales, (b"wtpt", _xyz(D50))]))


def linear_grey() -> bytes:
    """Grey with a linear scale."""
    return _profile(b"GRAY", {b"kTRC": _gamma_one(), b"wtpt": _xyz(D50)})


def _xyz(values: tuple[float, float, float]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in values))


def _gamma_one() -> bytes:
    return struct.pack(">4s4xI", b"curv", 0)


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    size = start + len(body)
    illuminant = struct.pack(">3i", *(round(value * 65536) for value in D50))
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    return header.ljust(68, b"\0") + illuminant.ljust(60, b"\0") + struct.pack(">I", len(tags)) + table + body
