import pytest


@pytest.fixture(scope="module")
def small_grids():
    """The whole grid of the pair plot takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qsmdl.report.pairs.PAIRED_METRICS", ("rmse", "rmse_detrend"))
        yield
