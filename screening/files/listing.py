"""CSV files that grow row by row, and are there when they are whole."""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from screening.files.whole import growing, writing

Take = Callable[[Sequence[object]], None]


@contextlib.contextmanager
def listing(path: Path | None, columns: Sequence[str]) -> Iterator[Take]:
    """Give what writes a row, which others see at once under the name of what grows; without a path rows go nowhere."""
    if path is None:
        yield lambda row: None
        return
    with growing(path) as sink:

        def take(row: Sequence[object]) -> None:
            line = io.StringIO(newline="")
            csv.writer(line).writerow(row)
            with writing(path):
                sink.write(line.getvalue().encode("utf-8", "backslashreplace"))
                sink.check()

        take(columns)
        yield take
