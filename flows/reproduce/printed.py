"""Scores that the paper's text names; its figures' other values can't be read off to the point.

Sections V-A and V-D of the paper; BigEarthNet-S2, micro mAP. Where the text says "around" or
"approximately", so does the number.
"""

DATASET = "bigearthnet"

# Series as in flows.comparing.points: rate: score.
SCORES: dict[str, dict[str, dict[float, float]]] = {
    "fig2": {
        "fedx (lrp, layer)": {0.2: 0.67, 0.6: 0.69, 0.9: 0.55},
        "fedx (integrated_gradients, layer)": {
            0.2: 0.67, 0.3: 0.66, 0.5: 0.70, 0.6: 0.63, 0.9: 0.53,
        },
        "fedx (lrp, global)": {0.2: 0.67, 0.6: 0.33, 0.9: 0.33},
        "fedx (integrated_gradients, global)": {0.2: 0.67, 0.6: 0.33, 0.9: 0.33},
    },
    "fig5": {
        "fedx (lrp)": {0.2: 0.64, 0.5: 0.63, 0.8: 0.60},
        "fedx (random)": {0.2: 0.58, 0.5: 0.56, 0.8: 0.49},
        "feddst": {0.2: 0.60, 0.5: 0.58, 0.8: 0.55},
        "feddip": {0.2: 0.60, 0.5: 0.60, 0.8: 0.55},
    },
}  # fmt: skip
