"""A verdict needs an effect, a null that is beaten both ways, and enough nulls to say so."""

import itertools

import pytest

from interp.verdicts import MIN_NULLS, VERDICTS, too_few_nulls, verdict

SURE = {"p_holm": 0.01, "n_null": 120}


def entry(read=(0.6, 0.8), addition=(), ablation=()):
    return {
        "addition": SURE | {"ci": [0.1, 0.3]} | dict(addition),
        "ablation": SURE | {"ci": [-0.3, -0.1]} | dict(ablation),
        "probe": {"auroc_ci": read},
    }


def test_an_effect_both_ways_beyond_enough_nulls_is_causal_whatever_a_probe_reads():
    for read in ((0.6, 0.8), (0.4, 0.6), None):
        assert verdict(entry(read)) == "causal"


@pytest.mark.parametrize("part", ["addition", "ablation"])
@pytest.mark.parametrize(
    "spoiled", [{"p_holm": 0.051}, {"n_null": MIN_NULLS - 1}, {"ci": None}, {"ci": [-0.1, 0.1]}]
)
def test_one_doubt_about_one_way_leaves_what_the_probe_says(part, spoiled):
    for read, expected in (((0.51, 0.8), "readable"), ((0.5, 0.8), "absent"), (None, "absent")):
        assert verdict(entry(read, **{part: spoiled})) == expected


def test_effects_the_wrong_way_are_not_causal():
    for added, ablated in itertools.product(([0.1, 0.3], [-0.3, -0.1]), repeat=2):
        found = verdict(entry(addition={"ci": added}, ablation={"ci": ablated}))
        assert (found == "causal") == (added[0] > 0 > ablated[0])
    assert list(VERDICTS) == ["causal", "readable", "absent"]


def test_too_few_nulls_are_told_and_enough_are_not():
    few = {"n_null": MIN_NULLS - 1}
    assert too_few_nulls({"a": entry()}) is None
    assert too_few_nulls({}) is None
    told = too_few_nulls({"a": entry(addition=few, ablation=few)})
    assert told is not None and f"{MIN_NULLS - 1} null directions" in told
