"""Colour encodings by their primaries and transfer function, and ICC profiles of them.

References:
    ITU-T H.273 (2024), Coding-independent code points for video signal type identification, tables 2 and 3.
    ITU-R BT.2100-2 (2018), Image parameter values for high dynamic range television.
    ITU-R BT.2408-7 (2023), Guidance for operational practices in HDR television production: white at 203 cd/m2.
    ICC.1:2001-04 (2001), File format for color profiles (version 2.4).
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Point = tuple[float, float]

HDR_WHITE = 203
"""Luminance in cd/m2 that HDR images have as white; what is brighter is clipped."""
HLG_PEAK = 1000
"""Luminance in cd/m2 of the display that HLG images are shown on, with a system gamma of 1.2."""

_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""From XYZ to the cone responses in which white points are adapted."""


@dataclass(frozen=True)
class Primaries:
    """The white point and the primaries of a colour space, as CIE 1931 x, y."""

    name: str
    white: Point
    red: Point
    green: Point
    blue: Point

    def to_xyz(self) -> Values:
        """Return the matrix [3, 3] from linear RGB to XYZ adapted to D50, which ICC profiles hold.

        Raises:
            ValueError: points that are no primaries, such as three on one line.
        """
        x, y = np.array([self.red, self.green, self.blue], dtype=np.float64).T
        colours = np.stack([x, y, 1 - x - y])
        if min(self.white) <= 0 or abs(np.linalg.det(colours)) < 1e-6:
            raise ValueError("the primaries span no colours")
        white = np.array([self.white[0], self.white[1], 1 - self.white[0] - self.white[1]]) / self.white[1]
        adaptation = np.linalg.solve(_BRADFORD, np.diag(_BRADFORD @ _D50 / (_BRADFORD @ white)) @ _BRADFORD)
        matrix: Values = adaptation @ (colours * np.linalg.solve(colours, white))
        return matrix


@dataclass(frozen=True)
class Transfer:
    """A transfer function.

    Attributes:
        name: for people.
        to_linear: from stored values in [0, 1] to light relative to white.
        is_hdr: whether it reaches beyond white.
    """

    name: str
    to_linear: Callable[[Values], Values]
    is_hdr: bool = False


@dataclass(frozen=True)
class ColourEncoding:
    """What the stored values of an image mean.

    Attributes:
        primaries: of the colour space.
        transfer: of each channel.
        origin: what of the file says so, for people.
        full_range: whether 0 is black and 255 white; otherwise 16 and 235.
    """

    primaries: Primaries
    transfer: Transfer
    origin: str
    full_range: bool = True

    def __str__(self) -> str:
        names = {"Adobe RGB": "Adobe RGB", "sRGB": self.primaries.name}
        name = names.get(self.transfer.name, f"{self.primaries.name} with {self.transfer.name}")
        text = f"{name} ({self.origin})"
        return f"{text}, {HDR_WHITE} cd/m2 as white and brighter light clipped" if self.transfer.is_hdr else text

    @property
    def is_srgb(self) -> bool:
        """Whether it is that of sRGB itself."""
        return self.primaries == BT709 and self.transfer == SRGB and self.full_range

    def to_icc(self, is_grey: bool) -> bytes:
        """Return an ICC profile for 8-bit images of this encoding.

        Raises:
            ValueError: see `Primaries.to_xyz`.
        """
        levels = np.arange(256) if self.full_range else np.clip((np.arange(256) - 16) * (255 / 219), 0, 255)
        # An entry for each level: none is interpolated, whatever the function.
        light = np.clip(self.transfer.to_linear(levels / 255), 0, 1)
        curve = struct.pack(">4s4xI256H", b"curv", 256, *(round(value * 65535) for value in light.tolist()))
        tags = {b"wtpt": _pack_xyz(_D50)}
        if is_grey:
            tags[b"kTRC"] = curve
        else:
            for letter, colour in zip(b"rgb", self.primaries.to_xyz().T.tolist(), strict=True):
                tags[bytes([letter]) + b"XYZ"] = _pack_xyz(colour)
                tags[bytes([letter]) + b"TRC"] = curve
        table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
        for tag, data in tags.items():
            table += struct.pack(">4sII", tag, start + len(body), len(data))
            body += data
        # Size, version 2.4, class, space of the pixels, space between profiles, signature, D50.
        space = b"GRAY" if is_grey else b"RGB "
        header = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
        head = header.ljust(68, b"\0") + _pack_xyz(_D50)[8:].ljust(60, b"\0")
        return head + struct.pack(">I", len(tags)) + table + body


def _pack_xyz(values: tuple[float, ...] | list[float]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in values))


def gamma(exponent: float) -> Transfer:
    """Return the transfer function light = value ** exponent."""
    return Transfer(f"gamma {exponent:.3g}", lambda value: value**exponent)


def _srgb(value: Values) -> Values:
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _bt709(value: Values) -> Values:
    alpha, beta = 1.099296826809442, 0.018053968510807
    return np.where(value < 4.5 * beta, value / 4.5, ((value + alpha - 1) / alpha) ** (1 / 0.45))


def _smpte240(value: Values) -> Values:
    alpha, beta = 1.111572195921731, 0.022821585529445
    return np.where(value < 4 * beta, value / 4, ((value + alpha - 1) / alpha) ** (1 / 0.45))


def _pq(value: Values) -> Values:
    root = value ** (32 / 2523)  # 1 / m2
    ratio = np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)
    return 10_000 / HDR_WHITE * ratio ** (8192 / 1305)  # 1 / m1


def _hlg(value: Values) -> Values:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
    # The system gamma is one of luminance. Applied to each channel it is exact for grey, and a curve like all others.
    return HLG_PEAK / HDR_WHITE * scene**1.2


_D65 = (0.3127, 0.3290)
_C = (0.310, 0.316)
_P3 = {"red": (0.680, 0.320), "green": (0.265, 0.690), "blue": (0.150, 0.060)}
_SMPTE_C = {"red": (0.630, 0.340), "green": (0.310, 0.595), "blue": (0.155, 0.070)}

BT709 = Primaries("BT.709", _D65, (0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
"""The primaries of sRGB too."""
SRGB = Transfer("sRGB", _srgb)
ADOBE_RGB = (
    Primaries("Adobe RGB", _D65, (0.640, 0.330), (0.210, 0.710), (0.150, 0.060)),
    Transfer("Adobe RGB", gamma(563 / 256).to_linear),
)

UNSPECIFIED = 2
"""The code point of primaries and transfer functions that says nothing."""
PRIMARIES: Mapping[int, Primaries] = {
    1: BT709,
    UNSPECIFIED: BT709,
    4: Primaries("BT.470 System M", _C, (0.670, 0.330), (0.210, 0.710), (0.140, 0.080)),
    5: Primaries("BT.470 System B, G", _D65, (0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),
    6: Primaries("BT.601", _D65, **_SMPTE_C),
    7: Primaries("SMPTE 240M", _D65, **_SMPTE_C),
    8: Primaries("Generic film", _C, (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: Primaries("BT.2020", _D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    10: Primaries("XYZ", (1 / 3, 1 / 3), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)),
    11: Primaries("DCI-P3", (0.314, 0.351), **_P3),
    12: Primaries("Display P3", _D65, **_P3),
    22: Primaries("EBU 3213", _D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""By the code points of H.273, table 2."""

_BT709_TRANSFER = Transfer("BT.709 transfer", _bt709)
TRANSFERS: Mapping[int, Transfer] = {
    1: _BT709_TRANSFER,
    UNSPECIFIED: SRGB,
    4: gamma(2.2),
    5: gamma(2.8),
    6: _BT709_TRANSFER,
    7: Transfer("SMPTE 240M transfer", _smpte240),
    8: Transfer("linear light", gamma(1).to_linear),
    11: _BT709_TRANSFER,
    12: _BT709_TRANSFER,
    13: SRGB,
    14: _BT709_TRANSFER,
    15: _BT709_TRANSFER,
    16: Transfer("PQ", _pq, is_hdr=True),
    17: Transfer("SMPTE 428 transfer", lambda value: 52.37 / 48 * value**2.6),
    18: Transfer("HLG", _hlg, is_hdr=True),
}
"""By the code points of H.273, table 3. The two logarithmic ones, 9 and 10, are not known."""
