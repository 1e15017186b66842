"""Golden values of the RC2 metrics: returned by the challenge's released evaluation code on these volumes.

`volumes()` makes the truth, mask, segmentation and seven reconstructions (ppm) from numpy's legacy RandomState, whose streams are frozen; `GOLDEN`
holds what the released code returned for each, keyed as there (rmse_detrend_v0: with the detrending dialect "v0"),
`GOLDEN_ADDITIONAL` the seven additional metrics.
"""

import numpy as np

SHAPE = (60, 56, 52)
CHI = {1: 0.044, 2: 0.1305, 3: 0.038, 4: 0.100, 5: 0.152, 6: 0.111, 7: 0.020, 8: -0.030, 9: 0.020, 10: 0.019, 11: 0.190, 16: -2.0}


def volumes():
    x, y, z = np.meshgrid(*[np.arange(n) - n / 2 + 0.5 for n in SHAPE], indexing="ij")
    seg = np.full(SHAPE, 14, np.uint8)
    r = np.sqrt((x / 26) ** 2 + (y / 24) ** 2 + (z / 22) ** 2)
    seg[r < 1] = 10
    seg[r < 0.95] = 9
    seg[r < 0.75] = 8
    for label, (cx, cy, cz, rad) in {
        1: (8, 6, 4, 4.2),
        2: (-8, 6, 4, 3.6),
        3: (12, -2, 3, 3.4),
        4: (3, -6, -6, 2.6),
        5: (-6, -9, -8, 3.1),
        6: (-3, -4, -5, 2.7),
        7: (-6, -1, 6, 4.0),
    }.items():
        seg[(x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < rad**2] = label
    seg[((x - 1) ** 2 + (z + 2) ** 2 < 2.0) & (np.abs(y) < 15)] = 11
    seg[26:29, 36:40, 35:38] = 16
    mask = (r < 1) & ~((x > 20) & (z > 3))
    truth = np.zeros(SHAPE)
    for label, value in CHI.items():
        truth[seg == label] = value
    truth += 0.004 * np.sin(0.7 * x + 0.3 * y) * np.cos(0.5 * z) * mask
    truth[~mask] = 0
    rs = np.random.RandomState(2019)
    noise = rs.standard_normal(SHAPE)
    smooth = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)) / 4
    streaks = 0.03 * np.sin(0.9 * (x + z)) * np.exp(-np.abs(np.abs(x - 1) - np.abs(z - 2)) / 3)
    cases = {
        "truth": truth.copy(),
        "noisy": (truth + 0.02 * smooth) * mask,
        "shrunk": (0.8 * truth + 0.01 * smooth + 0.005) * mask,
        "streaky": (0.93 * truth + streaks + 0.01 * smooth) * mask,
        "blurred": sum(np.roll(truth, s, a) for a in range(3) for s in (-1, 0, 1)) / 9 * mask,
        "overestimated": (1.25 * truth + 0.015 * smooth) * mask,
        "not_finite": np.where((np.arange(truth.size).reshape(SHAPE) % 977) == 0, np.nan, (truth + 0.02 * smooth) * mask),
    }
    return truth, mask, seg, cases


GOLDEN = {
    "truth": {
        "rmse": 0,
        "rmse_detrend": 8.86411195187e-14,
        "rmse_detrend_v0": 8.86411195187e-14,
        "rmse_detrend_Tissue": 1.38523409273e-14,
        "rmse_detrend_Blood": 4.55245773202e-14,
        "rmse_detrend_DGM": 8.5733431869e-14,
        "DeviationFromLinearSlope": 2.22044604925e-16,
        "CalcStreak": 1.92852860354e-17,
        "CalcMoment": -71.9488096962,
        "DeviationFromCalcMoment": 0,
    },
    "noisy": {
        "rmse": 17.189425229,
        "rmse_detrend": 17.2074498707,
        "rmse_detrend_v0": 16.9242805618,
        "rmse_detrend_Tissue": 39.6852736941,
        "rmse_detrend_Blood": 11.3136697697,
        "rmse_detrend_DGM": 21.7688700887,
        "DeviationFromLinearSlope": 0.00311507526916,
        "CalcStreak": 0.0047682207503,
        "CalcMoment": -72.0858880362,
        "DeviationFromCalcMoment": 0.137078339944,
    },
    "shrunk": {
        "rmse": 21.7226380593,
        "rmse_detrend": 36.573070559,
        "rmse_detrend_v0": 10.6751610748,
        "rmse_detrend_Tissue": 39.3962008846,
        "rmse_detrend_Blood": 37.7786042796,
        "rmse_detrend_DGM": 36.5850388757,
        "DeviationFromLinearSlope": 0.198442462365,
        "CalcStreak": 0.00311492707057,
        "CalcMoment": -57.447586927,
        "DeviationFromCalcMoment": 14.5012227693,
    },
    "streaky": {
        "rmse": 17.039441692,
        "rmse_detrend": 19.9107733458,
        "rmse_detrend_v0": 16.4307045204,
        "rmse_detrend_Tissue": 36.5190174877,
        "rmse_detrend_Blood": 22.2098334945,
        "rmse_detrend_DGM": 22.930229822,
        "DeviationFromLinearSlope": 0.0774030638431,
        "CalcStreak": 0.00511135363632,
        "CalcMoment": -66.9237188181,
        "DeviationFromCalcMoment": 5.02509087812,
    },
    "blurred": {
        "rmse": 25.8073620484,
        "rmse_detrend": 36.0783173685,
        "rmse_detrend_v0": 22.017635732,
        "rmse_detrend_Tissue": 38.4497642281,
        "rmse_detrend_Blood": 52.2401804704,
        "rmse_detrend_DGM": 46.5467994817,
        "DeviationFromLinearSlope": 0.177760206793,
        "CalcStreak": 0.010272089182,
        "CalcMoment": -73.7185627816,
        "DeviationFromCalcMoment": 1.76975308539,
    },
    "overestimated": {
        "rmse": 28.1948238573,
        "rmse_detrend": 58.6954394347,
        "rmse_detrend_v0": 10.252988728,
        "rmse_detrend_Tissue": 67.3393401163,
        "rmse_detrend_Blood": 53.6062661474,
        "rmse_detrend_DGM": 60.8246117896,
        "DeviationFromLinearSlope": 0.252336306452,
        "CalcStreak": 0.00286311024342,
        "CalcMoment": -90.0388208752,
        "DeviationFromCalcMoment": 18.090011179,
    },
    "not_finite": {
        "rmse": 17.2316565282,
        "rmse_detrend": 17.2463511041,
        "rmse_detrend_v0": 16.9677060476,
        "rmse_detrend_Tissue": 39.7496444006,
        "rmse_detrend_Blood": 11.3888606406,
        "rmse_detrend_DGM": 22.0396341977,
        "DeviationFromLinearSlope": 0.00407349019316,
        "CalcStreak": 0.0047899323417,
        "CalcMoment": -72.0858880362,
        "DeviationFromCalcMoment": 0.137078339944,
    },
}

GOLDEN_ADDITIONAL = {
    "truth": {
        "SSIM": 1,
        "XSIM": 1,
        "HFEN": 0,
        "CC": 0.999999999998,
        "MI": 0.425236105859,
        "MAD": 0,
        "GXE": 0,
    },
    "noisy": {
        "SSIM": 0.987953594943,
        "XSIM": 0.683697009382,
        "HFEN": 9.32453532798,
        "CC": 0.985573587334,
        "MI": 0.217538263318,
        "MAD": 29.9464509114,
        "GXE": 29.6839926782,
    },
    "shrunk": {
        "SSIM": 0.994702854951,
        "XSIM": 0.77182520669,
        "HFEN": 20.360399356,
        "CC": 0.99038994875,
        "MI": 0.132822594149,
        "MAD": 27.7114242871,
        "GXE": 24.7639939024,
    },
    "streaky": {
        "SSIM": 0.989315049503,
        "XSIM": 0.741133805828,
        "HFEN": 16.6360682359,
        "CC": 0.986401081232,
        "MI": 0.0955550432775,
        "MAD": 26.1673698976,
        "GXE": 20.3852747286,
    },
    "blurred": {
        "SSIM": 0.992884708399,
        "XSIM": 0.935801492713,
        "HFEN": 11.9344279209,
        "CC": 0.975438799628,
        "MI": 0.0519304023113,
        "MAD": 11.5336038337,
        "GXE": 44.4009933547,
    },
    "overestimated": {
        "SSIM": 0.993534581231,
        "XSIM": 0.760170606689,
        "HFEN": 25.9306102196,
        "CC": 0.994729623591,
        "MI": 0.12614474575,
        "MAD": 31.8610741008,
        "GXE": 33.5451698956,
    },
    "not_finite": {
        "SSIM": 0.916745653111,
        "XSIM": 0.682835131914,
        "HFEN": 9.32660103309,
        "CC": 0.985499000761,
        "MI": 0.217275460252,
        "MAD": 30.0041818499,
        "GXE": 29.7806291551,
    },
}
"""The seven additional metrics, of the masked volumes."""
