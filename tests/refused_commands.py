"""Commands that must be refused."""

import pytest

from qsmdl.cli.main import main


def fails(capsys, *words):
    """What `qsmdl WORDS` says, in one line, when it ends with status 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    return capsys.readouterr().err.replace("\n", " ")
