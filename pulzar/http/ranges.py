"""Range requests (RFC 9110, section 14): which bytes, and how they are put into an answer.

A `Range` in bytes that is malformed is refused; one in another unit is ignored. Ranges that
overlap or touch are joined. Several ranges are answered as multipart/byteranges.
"""

import re
from dataclasses import dataclass

from pulzar.errors import InvalidParameter, RangeNotSatisfiable
from pulzar.http.problem import shown
from pulzar.limits import RANGES_MAX

_UNIT = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(.*)")
_DIGITS_MAX = 18  # a value has 12
_SPEC = re.compile(r"[ \t]*(?:([0-9]*)-([0-9]*)[ \t]*)?")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes start..end (exclusive) of the value, with what stands in front of them."""

    start: int
    end: int
    lead: bytes = b""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the body of an answer is made of."""

    pieces: tuple[Piece, ...]
    tail: bytes = b""

    @property
    def length(self) -> int:
        """The bytes of the whole body."""
        inner = sum(len(piece.lead) + piece.end - piece.start for piece in self.pieces)
        return inner + len(self.tail)


def parse_range(text: str, size: int) -> list[tuple[int, int]] | None:
    """The bytes asked for, as (start, end), end exclusive; None where the header is ignored.

    Raises InvalidParameter, RangeNotSatisfiable.
    """
    named = _UNIT.fullmatch(text.strip(" \t"))
    if named is None:
        raise InvalidParameter(f"Range must be like bytes=0-99, not {shown(text)}")
    if named[1].lower() != "bytes":
        return None
    specs = [spec for spec in named[2].split(",") if spec.strip(" \t")]
    if not specs or len(specs) > RANGES_MAX:
        raise InvalidParameter(f"Range must name 1 to {RANGES_MAX} ranges, not {len(specs)}")
    found = [_one(spec, size) for spec in specs]
    ranges = [one for one in found if one is not None]
    if not ranges:
        raise RangeNotSatisfiable(
            f"the value has {size} bytes: {shown(text)} names none of them", size=size
        )
    return _joined(ranges)


def content_range(start: int, end: int, size: int) -> bytes:
    """The value of Content-Range."""
    return b"bytes %d-%d/%d" % (start, end - 1, size)


def whole(size: int) -> Layout:
    """All of the value."""
    return Layout((Piece(0, size),))


def multipart(
    ranges: list[tuple[int, int]], *, size: int, content_type: bytes, boundary: bytes
) -> Layout:
    """Several ranges, each a part of its own (RFC 9110, 14.6)."""
    pieces = [
        Piece(
            start,
            end,
            b"%b--%b\r\nContent-Type: %b\r\nContent-Range: %b\r\n\r\n"
            % (
                b"\r\n" if number else b"",
                boundary,
                content_type,
                content_range(start, end, size),
            ),
        )
        for number, (start, end) in enumerate(ranges)
    ]
    return Layout(tuple(pieces), b"\r\n--%b--\r\n" % boundary)


def _one(spec: str, size: int) -> tuple[int, int] | None:
    """One range, None where it lies behind the end. Raises InvalidParameter."""
    numbers = _SPEC.fullmatch(spec)
    first, last = (numbers[1] or "", numbers[2] or "") if numbers else ("", "")
    if not (first or last):
        raise InvalidParameter(
            f"{shown(spec.strip())} is no range: give first-last, first- or -count"
        )
    if not first:
        start, end = max(0, size - _number(last)), size
    else:
        start = _number(first)
        end = min(_number(last) + 1, size) if last else size
        if last and _number(last) < start:
            raise InvalidParameter(f"{shown(spec.strip())} is no range: it ends before it begins")
    return (start, end) if start < end else None


def _number(digits: str) -> int:
    """A number; one far beyond every size is cut, which changes nothing."""
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS_MAX else 10**_DIGITS_MAX


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges in the order asked; where some overlap or touch, joined and ascending."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return ranges if len(joined) == len(ranges) else joined
