"""Rows of made-up submissions whose metrics are correlated, as those of a challenge are."""

import numpy as np

KINDS = ("direct", "iterative", "deep learning")
SCANS = ("Sim1", "Sim2", "Sim1Snr1", "Sim1Snr2", "Sim2Snr1", "Sim2Snr2")
# typical NRMSE (%) of each kind, and how much of it tuning against the truth (stage 2) takes away
LEVEL = {"direct": (68.0, 0.90), "iterative": (45.0, 0.82), "deep learning": (56.0, 0.97)}


def metrics(generator, quality, scan):
    """quality: NRMSE in %; the other metrics follow it with their own scatter."""

    def near(value, spread):
        return float(value * np.exp(generator.normal(0, spread)))

    calcified = scan.startswith("Sim2")
    return {
        "rmse": quality,
        "rmse_detrend": near(quality * 0.98, 0.03),
        "rmse_detrend_Tissue": near(quality * 1.25, 0.08),
        "rmse_detrend_Blood": near(55 + 0.4 * quality, 0.12),
        "rmse_detrend_DGM": near(quality * 0.95, 0.15),
        "DeviationFromLinearSlope": near(0.0025 * quality, 0.6),
        "CalcStreak": near(0.0009 * quality, 0.35) if calcified else None,
        "DeviationFromCalcMoment": near(0.3 * quality, 0.45) if calcified else None,
    }


def synthetic_rows(n_submissions=100, scans=SCANS, seed=0):
    """Rows of n submissions on the scans of both stages; identifiers have ten characters."""
    generator = np.random.default_rng(seed)
    letters = np.array(list("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"))
    rows = []
    for index in range(n_submissions):
        kind = KINDS[int(generator.choice(3, p=(0.2, 0.5, 0.3)))]
        level, tuning = LEVEL[kind]
        quality = level * np.exp(generator.normal(0, 0.22))
        name = "".join(generator.choice(letters, 10))
        for scan in scans:
            factor = np.exp(generator.normal(0, 0.05))
            if scan.startswith("Sim2"):
                factor *= 0.93
            if "Snr" in scan:
                factor *= tuning * np.exp(generator.normal(0, 0.04))
            if scan.endswith("Snr2"):
                factor *= 0.93
            row = {
                "method": name, "scan": scan, "metrics": metrics(generator, float(quality * factor), scan), "seconds": 1.0 + index,
                "peak_bytes": None, "seed": None, "stopped": "submitted", "dialect": "rc2", "convention": "release", "kind": kind,
                "attested": None if kind != "deep learning" else bool(generator.random() < 0.8),
            }  # fmt: skip
            rows.append(row)
    return rows
