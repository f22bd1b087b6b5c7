"""Files of numpy: `.npz`, an archive of arrays by name, and `.npy`, one array.

Source: numpy 2.4, `lib/_npyio_impl.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rekindle import spans
from rekindle.errors import DamagedError, FormatError, RekindleError
from rekindle.formats import npy_records
from rekindle.formats.protocol import Confidence, Format, Reading
from rekindle.limits import SNIFF_BYTES, Budget
from rekindle.spans import Span
from rekindle.zips import Zip, is_zip

_SUFFIX = ".npy"
_COMPONENT = "agent"
"""Where the arrays are: the file does not say of what they are."""


class NumpyFile(Format):
    """`.npz` and `.npy`, by whatever name."""

    name = "numpy"

    def sniff(self, path: Path) -> Confidence | None:
        """An archive of nothing but arrays, or one array that fills the file."""
        if not path.is_file():
            return None
        try:
            span = spans.of_file(path)
            if is_zip(span):
                members = list(Zip(span, Budget(SNIFF_BYTES, span.name)))
                is_own = bool(members) and all(name.endswith(_SUFFIX) for name in members)
            else:
                found = npy_records.records(span, 0)
                next(found)
                is_own = next(found, None) is None
        except (RekindleError, OSError, StopIteration):
            return None
        return Confidence.LAYOUT if is_own else None

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """Arrays by name, or the one array, as `agent`; where they are stored, in the file."""
        span = spans.of_file(path)
        budget = Budget(max_bytes, span.name)
        if not is_zip(span):
            value: Any = _array(span, budget)
        else:
            archive = Zip(span, budget)
            value = {}
            for member in archive:
                if not member.endswith(_SUFFIX):
                    raise FormatError(
                        f"{path}: expected arrays alone, each a member whose name ends in "
                        f"{_SUFFIX}, found {member[:200]}. It is no file of numpy.savez.",
                        path=path,
                        key=member,
                    )
                part = archive.span(member, is_array=True)
                value[member.removesuffix(_SUFFIX)] = _array(part, budget)
        return Reading(format=self.name, components={_COMPONENT: value})


def _array(span: Span, budget: Budget) -> npy_records.Array:
    """The one array in some bytes."""
    found = npy_records.records(span, 0)
    record = next(found, None)
    if record is None or record.end != len(span):
        raise DamagedError(
            f"{span.name}: expected one array that fills the file, found "
            f"{'nothing' if record is None else 'more after it'}. It is damaged.",
            path=span.name,
        )
    # numpy puts members of archives anywhere, and works with arrays that are not aligned.
    return npy_records.array(span, record, budget, needs_alignment=False)


FORMAT = NumpyFile()
