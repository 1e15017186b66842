"""Runs of the two stages on small releases: what the tests of stages share."""

from qsmdl.challenge.release import find_scans
from qsmdl.challenge.stages import Events, Plan, begin, check_scans, reconstruct_all, score_all
from qsmdl.methods import Method
from qsmdl.solvers.direct import tkd
from qsmdl.solvers.tv import tv

TKD, TV = Method("tkd", tkd, threshold=0.2), Method("tv", tv, n_iterations=3, regularisation=8e-5)


def plan(root, folder, methods=(TKD, TV), *, stage=1, **settings):
    return Plan(stage, folder, find_scans(root, stage=stage), methods, **settings)


def run(root, folder, methods=(TKD, TV), *, stage=1, chosen=None, events=None, **settings):
    wanted = plan(root, folder, methods, stage=stage, **settings)
    contents = check_scans(wanted)
    record = begin(wanted, contents)
    sealed = reconstruct_all(wanted, contents, chosen or {}, record, events or Events())
    return score_all(wanted, sealed, record)[0]
