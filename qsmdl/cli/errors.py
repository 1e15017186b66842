"""How commands end: a sentence for the user instead of a traceback, and an exit status."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from qsmdl.adaptation.fine import FineInterrupted
from qsmdl.errors import InputError
from qsmdl.interrupt import EXIT_INTERRUPTED

EXIT_INPUT = 2


@contextmanager
def reported() -> Iterator[None]:
    """InputError becomes a message and exit status 2, an interruption exit status 130."""
    try:
        yield
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_INPUT)
    except FineInterrupted as stop:
        saved = f"State saved in {stop.state_path}; run the same again, with the same output, to go on. " if stop.state_path else ""
        sys.stderr.write(f"interrupted: FINE {stop}. {saved}Exit status {EXIT_INTERRUPTED}\n")
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; nothing was left half written; exit status {EXIT_INTERRUPTED}\n")
        sys.exit(EXIT_INTERRUPTED)
