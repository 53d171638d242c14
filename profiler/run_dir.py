"""Where run directories go."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from profiler.errors import StoreError

DEFAULT_OUT = Path("runs")


def writable_out(out: Path) -> Path:
    """Return `out`, made if need be; where the default cannot be written, one under the temporary directory.

    Raises:
        StoreError: a directory that was asked for cannot be written.
    """
    try:
        return _made(out)
    except OSError as error:
        if out != DEFAULT_OUT:
            raise StoreError(
                f"cannot write {out}: {error.strerror}", hint="name a directory you may write with --out DIR"
            ) from error
    return _made(Path(tempfile.gettempdir()) / "jouletrace-runs")


def _made(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(out))
    return out.absolute()
