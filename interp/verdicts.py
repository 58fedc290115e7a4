"""What is concluded of a behavior in one model: `causal`, `readable` or `absent`."""

from collections.abc import Mapping
from typing import Any

ALPHA = 0.05
MIN_NULLS = 100
"""Null directions without which nothing is called causal."""
VERDICTS = {
    "causal": "adding and removing the direction both beat their nulls",
    "readable": "a probe reads the behavior, but the causal test does not hold: adding or removing the "
    "direction does not beat its null, or nulls were too few",
    "absent": "no probe was found to read the behavior above chance; where segments are few, that is "
    "weak evidence",
}
"""What each verdict means, strongest first."""


def verdict(entry: Mapping[str, Any]) -> str:
    """`causal`, `readable` or `absent`, from one behavior's entry in results.json.

    Causal: adding raises and ablating lowers the behavior's rate, both Holm-corrected p <= 0.05
    against at least `MIN_NULLS` nulls and with intervals that exclude 0. Readable: the probe's interval lies above
    chance. Absent: neither.
    """
    addition, ablation = entry["addition"], entry["ablation"]
    sure = all(
        part["p_holm"] <= ALPHA and part["n_null"] >= MIN_NULLS and part["ci"] is not None
        for part in (addition, ablation)
    )
    if sure and addition["ci"][0] > 0 and ablation["ci"][1] < 0:
        return "causal"
    read = entry["probe"]["auroc_ci"]
    return "readable" if read is not None and read[0] > 0.5 else "absent"


def too_few_nulls(behaviors: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A clause that says so where there were too few nulls for anything to be called causal; else None."""
    counts = [
        entry[kind]["n_null"]
        for entry in behaviors.values()
        for kind in ("addition", "ablation")
        if (entry.get(kind) or {}).get("n_null") is not None
    ]
    if not counts or max(counts) >= MIN_NULLS:
        return None
    return f"nothing is called causal beside {max(counts)} null directions, of which it takes {MIN_NULLS}"
