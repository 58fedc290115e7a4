"""One candidate direction before every gate."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property

import numpy as np

from interp.behaviors import labels_of
from interp.causal import ArmResult, rate_change, specific
from interp.curves import mean_effect
from interp.interventions import Audit
from interp.types import Trace
from interp.validation.evidence import Evidence
from interp.validation.gates import Gate, Thresholds, read_gates
from interp.validation.quality import (
    broken,
    compare_traces,
    lengths,
    neutral_text,
    share_change,
)
from interp.validation.robustness import redundancy, stability, transfer
from probes import bootstrap_weights, dose_response, percentile_interval

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0)
"""Doses of the dose-response curve, in mean norms of the residual stream."""
N_COLLAPSE = 100
"""Report problems on which each of these doses generates."""
N_NEUTRAL = 100
UNLABELED = "text without a label"
N_BOOT = 1000


class Trial:
    """A direction, at its dose, before the gates that thresholds are declared for."""

    def __init__(
        self,
        evidence: Evidence,
        gates: Thresholds,
        advance: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.evidence, self.gates, self.advance = evidence, gates, advance
        self.bench, self.own = evidence.bench, evidence.bench.own
        self.steering, self.behavior, self.dose = evidence.steering, evidence.name, evidence.dose
        self.seed = self.own.config.seed

    @cached_property
    def steering_run(self) -> tuple[list[Trace], Audit]:
        """Steered traces of all report problems, and what the edits did."""
        return self.evidence.steer()

    @property
    def traces(self) -> list[Trace]:
        """The model's traces when it is steered."""
        return self.steering_run[0]

    @cached_property
    def steered(self) -> ArmResult:
        """What these traces show."""
        return self.own.count(self.traces)

    def run(self) -> list[Gate]:
        """Every gate that thresholds are declared for, in order."""
        found = []
        for name, thresholds in self.gates.items():
            found.append(getattr(self, name)(**thresholds))
            self.advance(1)
        return found

    def sufficiency(self, max_p: float, min_effect: float) -> Gate:
        """Adding it raises its behavior, more than chance does."""
        a = self.evidence.addition(self.steered)
        sure = a["ci"] is not None and a["ci"][0] > 0
        passed = a["p_value"] <= max_p and a["effect"] >= min_effect and sure
        reason = (
            f"adding it takes the rate from {a['baseline_rate']:.3f} to {a['steered_rate']:.3f}"
            + _beside(a)
        )
        return Gate("sufficiency", passed, reason, a["effect"], a["ci"], a["null_q95"], a)

    def necessity(self, max_p: float, min_removed: float) -> Gate:
        """Ablating it in the thinking model takes the behavior away, more than chance does."""
        a, name = self.evidence.ablation(), self.bench.thinking.model.name
        removed = a["removed_share"]
        if removed is None:
            reason = f"{name} never shows {self.behavior}, so nothing can be removed"
            return Gate("necessity", None, reason, details=a)
        sure = a["ci"] is not None and a["ci"][1] < 0
        passed = a["p_value"] <= max_p and removed >= min_removed and sure
        reason = (
            f"ablating it in {name} removes {removed:.0%} of the rate of "
            f"{a['baseline_rate']:.3f}" + _beside(a)
        )
        return Gate("necessity", passed, reason, a["effect"], a["ci"], a["null_q05"], a)

    def specificity(self, max_share: float) -> Gate:
        """Other behaviors rise by little beside this one, and so does what has no label.

        Of behaviors that are not under test, and of sentences without one, the share of segments counts.
        """
        found = {
            b: rate_change(self.bench.clean, self.steered, j, self.seed)
            for j, b in enumerate(self.own.behaviors)
        }
        own = found.pop(self.behavior)
        before, after = (
            self.bench.segments(traces) for traces in (self.own.clean_traces, self.traces)
        )
        for label in (*labels_of(self.own.config.annotator), None):
            if label not in self.own.behaviors:
                found[label or UNLABELED] = share_change(before, after, label, self.seed)
        worst = max(found, key=lambda b: found[b]["effect"])
        rise = found[worst]["effect"]
        reason = f"{worst} changes by {rise:+.3f}, this behavior by {own['effect']:+.3f}"
        if own["effect"] <= 0:
            return Gate("specificity", False, reason, details=found)
        share = max(rise, 0.0) / own["effect"]
        sure = own["ci"] is not None and own["ci"][0] > 0
        return Gate("specificity", sure and share <= max_share, reason, share, details=found)

    def dose_response(self, min_order: float, max_mirror: float) -> Gate:
        """More of it does more, up to the dose to deploy, and the model holds at that dose."""
        # Two of them below the dose to deploy, however small that is: one point has no order.
        third = round(self.dose / 3, 6)
        doses = sorted({*GRID, third, 2 * third, self.dose})
        i = self.evidence.behavior
        at = self.own.report_at[i]
        if few := self.evidence.too_few(self.own.report, at):
            return Gate("dose_response", None, few)
        effects = self.steering.changes(self.own.report, doses)[0, :, i][:, at]
        mirror = self.steering.negated.changes(self.own.report, [self.dose])[0, 0, i, at]
        problems = self.bench.problems[:N_COLLAPSE]
        model = self.own.model
        vectors = self.steering.vectors.expand(len(doses), -1, -1).contiguous()
        many = replace(self.steering, vectors=vectors)
        most = self.own.config.max_new_tokens
        rows, _ = many.traces(model, problems, doses, self.bench.grade, self.seed, most)
        levels = [self.own.clean_traces[: len(problems)], *rows]
        bad = np.stack([broken(model, traces) for traces in levels])
        known = {**read_gates(), **self.gates}  # a gate that is left out has its defaults
        limit, least = known["side_effects"]["max_broken"], known["sufficiency"]["min_effect"]
        groups = self.own.report.groups[at]
        fitted = dose_response(
            np.array(doses), effects, groups, bad, limit, least, self.dose, self.seed
        )
        effect = float(effects[doses.index(self.dose)].mean())
        opposite = mean_effect(mirror, groups, self.seed)
        share = opposite["effect"] / effect if effect > 0 else None
        rank, onset, collapse = fitted.order.value or 0.0, fitted.onset.value, fitted.collapse.ci[0]
        holds = onset is not None and onset <= self.dose < (
            np.inf if collapse is None else collapse
        )
        passed = rank >= min_order and share is not None and share <= max_mirror and holds
        begins = "at no dose" if onset is None else f"from dose {onset:.2g}"
        ends = "" if collapse is None else f", and the model may collapse from dose {collapse:g}"
        reason = (
            f"effect and dose correlate by {rank:.2f} up to dose {self.dose:g}, the opposite direction "
            f"has {'no effect to compare' if share is None else f'{share:.0%} of the effect'}; the effect "
            f"counts (over {least:g}) {begins}{ends}"
        )
        details = asdict(fitted) | {
            "accuracy": [float(np.mean([t.correct for t in traces])) for traces in levels],
            "broken": bad.mean(1).tolist(),
            "mirror": opposite,
            "n_problems": len(problems),
        }
        value, ci = fitted.ec50.value, fitted.ec50.ci
        return Gate("dose_response", passed, reason, value, ci if value else None, None, details)

    def side_effects(self, max_accuracy_loss: float, max_broken: float, max_kl: float) -> Gate:
        """Accuracy, loops, endings and neutral text stay as they were."""
        table = compare_traces(self.own.model, self.own.clean_traces, self.traces, self.seed)
        texts = self.own.clean_traces[:N_NEUTRAL]
        segments = self.bench.segments(texts)
        edits = self.steering.edits(self.dose)
        neutral = neutral_text(self.own.model, edits, texts, segments, self.seed)
        kl = max(neutral[part]["kl"] or 0.0 for part in ("prompt", "think", "answer"))
        loss, rise = table["accuracy"], table["broken"]
        bad = [
            text
            for text, wrong in (
                (
                    f"accuracy changes by {loss['change']:+.3f}, at worst by {loss['ci'][0]:+.3f}",
                    loss["ci"][0] < -max_accuracy_loss,
                ),
                (
                    f"broken traces change by {rise['change']:+.3f}, at worst by {rise['ci'][1]:+.3f}",
                    rise["ci"][1] > max_broken,
                ),
                (f"neutral text moves by {kl:.3f} nats a token", kl > max_kl),
            )
            if wrong
        ]
        reason = "; ".join(bad) if bad else (
            f"accuracy changes by {loss['change']:+.3f}, broken traces by {rise['change']:+.3f}, neutral "
            f"text by {kl:.3f} nats a token"
        )  # fmt: skip
        return Gate(
            "side_effects", not bad, reason, loss["change"], loss["ci"], None,
            {"traces": table, "neutral": neutral},
        )  # fmt: skip

    def stability(self, min_cosine: float) -> Gate:
        """Refits on other problems, at another read position and by another annotator point there."""
        return stability(self.evidence, min_cosine)

    def transfer(self, min_share: float) -> Gate:
        """It raises the behavior in the pair's other model, for other problems and other words, too."""
        bench, own, i = self.bench, self.own, self.evidence.behavior
        told = bench.told_points
        settings = {}
        if (other := bench.other) is not None:
            settings[f"in {other.model.name}"] = (other.report, other.report_at[i])
        settings[f"after {bench.words!r}"] = (told, own.choices_at(told)[i])
        families = {p.id: bench.family(p) for p in bench.problems}
        kinds = np.array([families[group] for group in own.report.groups])
        for kind in sorted(set(kinds)):
            settings[f"where {kind}"] = (own.report, own.report_at[i] & (kinds == kind))
        return transfer(self.evidence, settings, min_share)

    def redundancy(self, min_share: float) -> Gate:
        """Without it the thinking model shows the behavior less, as without anything linear."""
        return redundancy(self.evidence, min_share)

    def prompt(self, min_gain: float) -> Gate:
        """It raises this behavior alone by more than asking does, at each place where it is a choice.

        Compared are specific effects: the rise of its rate beyond the largest rise of another behavior.
        """
        bench, i = self.bench, self.evidence.behavior
        told = self.own.count(bench.told)
        rows = bootstrap_weights(len(bench.problems), N_BOOT, self.seed)
        rows = np.concatenate([np.ones_like(rows[:1]), rows])

        def alone(result: ArmResult) -> np.ndarray:
            after, before = (
                rows @ r.taken.T / np.maximum(rows @ r.chances.T, 1) for r in (result, bench.clean)
            )
            return specific(after - before, i, 1)

        steered, asked = alone(self.steered), alone(told)
        # A prompt that harms is no excuse for a direction that does nothing.
        gain = steered - np.maximum(asked, 0.0)
        ci = percentile_interval(gain[1:], 0.95)
        passed = ci.low > min_gain
        reason = (
            f"steering raises it by {steered[0]:+.3f} beyond any other behavior, {bench.words!r} before each "
            f"problem by {asked[0]:+.3f} (its rate: {self.steered.rate(i):.3f} and {told.rate(i):.3f}); "
            f"the gain is at least {ci.low:+.3f}"
        )
        details = {
            "words": bench.words,
            "accuracy_told": float(told.correct.mean()),
            "length": {
                name: float(lengths(traces).mean())
                for name, traces in (("steered", self.traces), ("told", bench.told))
            },
        }
        estimate = float(gain[0])
        return Gate("prompt", passed, reason, estimate, (ci.low, ci.high), None, details)

    def fired(self, max_error: float) -> Gate:
        """The edit was made in every trace, at the length asked for."""
        audit = self.steering_run[1]
        errors = [
            abs(audit.mean_change(layer) / (float(v.norm()) * self.dose) - 1)
            for layer, v in zip(self.steering.layers, self.steering.vectors[0], strict=True)
        ]
        rows = len(audit.rows)
        passed = rows == len(self.traces) and max(errors) <= max_error
        n = sum(audit.positions.values())
        reason = (
            f"{n} positions of {rows} of {len(self.traces)} traces over {len(audit.steps)} steps, length "
            f"off by {max(errors):.2%} at most"
        )
        return Gate("fired", passed, reason, max(errors), details={"positions": n, "rows": rows})


def _beside(a: dict) -> str:
    """What an effect is beside its nulls, in words."""
    return (
        f"; on {a['n_null_problems']} problems it goes {a['specific_effect']:.3f} beyond any other behavior under "
        f"test, {a['n_null']} null directions up to {a['specific_null_q95']:.3f} (p = {a['p_value']:.3g})"
    )
