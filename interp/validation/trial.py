"""One candidate direction before every gate."""

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
from jaxtyping import Float

from interp.activations import ActivationStore, hook_name
from interp.behaviors import segment_all
from interp.causal import count, rate_change
from interp.causal_subject import Subject
from interp.curves import mean_effect
from interp.directions import mean_difference
from interp.interventions import Add, intervene
from interp.readings import check_labels
from interp.traces import generate
from interp.types import Problem
from interp.validation.evidence import Evidence, Task, ablation, probability_effect
from interp.validation.gates import Gate, Thresholds
from interp.validation.quality import broken, compare_traces, log_probabilities, neutral_text
from probes import bootstrap_weights, dose_response, removal_curve
from probes.dose_response import order

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0)
"""Doses of the dose-response curve, in mean norms of the residual stream."""
N_COLLAPSE = 100
"""Report problems on which each of these doses generates."""
N_NEUTRAL = 100
N_REFITS = 100
N_REMOVALS = 12


class Trial:
    """A direction of `behavior` to be added to `own`, the model it is for.

    `other` is the pair's other model, `thinking` the one whose behavior is ablated; `stores` hold both
    models' fit activations, `reports` those of the report split.
    """

    def __init__(
        self,
        evidence: Evidence,
        own: Subject,
        other: Subject | None,
        thinking: Subject,
        store: ActivationStore,
        report: ActivationStore,
        prompt: str,
        gates: Thresholds,
        advance: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.evidence, self.own, self.other, self.thinking = evidence, own, other, thinking
        self.store, self.report, self.words, self.gates = store, report, prompt, gates
        self.steering, self.behavior, self.dose = evidence.steering, evidence.name, evidence.dose
        self.task: Task = evidence.task
        self.seed, self.advance = own.config.seed, advance
        self.addition, self.steered, self.traces, self.audit = evidence.addition(advance)

    def run(self) -> list[Gate]:
        """Every gate that thresholds are declared for, in order."""
        found = []
        for name, thresholds in self.gates.items():
            found.append(getattr(self, name)(**thresholds))
            self.advance(1)
        return found

    def sufficiency(self, max_p: float, min_effect: float) -> Gate:
        """Adding it raises its behavior, more than chance does."""
        a = self.addition
        sure = a["ci"] is not None and a["ci"][0] > 0
        passed = a["p_value"] <= max_p and a["effect"] >= min_effect and sure
        reason = (
            f"adding it takes the rate from {a['baseline_rate']:.3f} to {a['steered_rate']:.3f} "
            f"(p = {a['p_value']:.3g} beside {a['n_null']} null directions)"
        )
        return Gate("sufficiency", passed, reason, a["effect"], _pair(a["ci"]), a["null_q95"], a)

    def necessity(self, max_p: float, min_removed: float) -> Gate:
        """Ablating it in the thinking model takes the behavior away, more than chance does."""
        layer = self.steering.main_layer
        at = self.steering.layers.index(layer)
        self.ablated = ablation(
            self.thinking, self.behavior, layer, self.steering.vectors[0, at],
            self.evidence.nulls.vectors[:, at], self.task,
        )  # fmt: skip
        a = self.ablated
        removed = a["removed_share"]
        if removed is None:
            reason = (
                f"{self.thinking.model.name} never shows {self.behavior}, so nothing can be removed"
            )
            return Gate("necessity", None, reason, details=a)
        sure = a["ci"] is not None and a["ci"][1] < 0
        passed = a["p_value"] <= max_p and removed >= min_removed and sure
        reason = (
            f"ablating it in {self.thinking.model.name} removes {removed:.0%} of the rate of "
            f"{a['baseline_rate']:.3f} (p = {a['p_value']:.3g})"
        )
        return Gate("necessity", passed, reason, a["effect"], _pair(a["ci"]), a["null_q05"], a)

    def specificity(self, max_share: float) -> Gate:
        """Other behaviors rise by little beside this one."""
        own = self.addition["effect"]
        others = {
            b: f["effect"] for b, f in self.addition["specificity"].items() if b != self.behavior
        }
        worst = max(others, key=lambda b: others[b])
        share = max(others[worst], 0.0) / own if own > 0 else None
        if share is None:
            return Gate("specificity", False, "its own behavior does not rise", details=others)
        reason = f"{worst} changes by {others[worst]:+.3f}, this behavior by {own:+.3f}"
        return Gate("specificity", share <= max_share, reason, share, details=others)

    def dose_response(self, min_order: float, max_mirror: float) -> Gate:
        """More of it does more, up to the dose to deploy, and the model holds at that dose."""
        doses = sorted({*GRID, self.dose})
        i = self.evidence.behavior
        at = self.own.report_at[i]
        effects = self.steering.changes(self.own.report, doses)[0, :, i][:, at]
        mirror = self.steering.negated.changes(self.own.report, [self.dose])[0, 0, i, at]
        problems = self.task.problems[:N_COLLAPSE]
        model = self.own.model
        vectors = self.steering.vectors.expand(len(doses), -1, -1).contiguous()
        many = replace(self.steering, vectors=vectors)
        rows, _ = many.traces(model, problems, doses, self.task.grade, self.seed)
        levels = [self.own.clean_traces[: len(problems)], *rows]
        bad = np.stack([broken(model, traces) for traces in levels])
        limit = self.gates.get("side_effects", {}).get("max_broken", 0.1)
        fitted = dose_response(
            np.array(doses), effects, self.own.report.groups[at], bad, limit, self.seed
        )
        upto = doses.index(self.dose) + 1
        rank = order(np.array(doses[:upto]), effects[:upto].mean(1))
        effect = float(effects[upto - 1].mean())
        share = float(mirror.mean()) / effect if effect > 0 else None
        collapse = fitted.collapse.ci[0]
        holds = collapse is None or self.dose < collapse
        passed = rank >= min_order and share is not None and share <= max_mirror and holds
        ends = "beyond the largest dose" if collapse is None else f"from dose {collapse:g} on"
        reason = (
            f"effect and dose correlate by {rank:.2f} up to dose {self.dose:g}, the opposite direction "
            f"has {'no effect to compare' if share is None else f'{share:.0%} of the effect'}, and the "
            f"model collapses {ends}"
        )
        details = asdict(fitted) | {
            "accuracy": [float(np.mean([t.correct for t in traces])) for traces in levels],
            "broken": bad.mean(1).tolist(),
            "mirror": float(mirror.mean()),
            "order": rank,
            "n_problems": len(problems),
        }
        value = fitted.ec50.value
        return Gate(
            "dose_response", passed, reason, value, fitted.ec50.ci if value else None, None, details
        )

    def side_effects(self, max_accuracy_loss: float, max_broken: float, max_kl: float) -> Gate:
        """Accuracy, loops, endings and neutral text stay as they were."""
        table = compare_traces(self.own.model, self.own.clean_traces, self.traces, self.seed)
        texts = self.own.clean_traces[:N_NEUTRAL]
        segments = segment_all(self.own.model, texts, self.own.config.annotator)
        clean = log_probabilities(self.own.model, texts)
        with self._steered():
            steered = log_probabilities(self.own.model, texts)
        neutral = neutral_text(clean, steered, texts, segments, self.seed)
        kl = max(neutral[part]["kl"] or 0.0 for part in ("prompt", "think", "answer"))
        loss, rise = table["accuracy"], table["broken"]
        bad = [
            text
            for text, wrong in (
                (f"accuracy changes by {loss['change']:+.3f}", loss["ci"][0] < -max_accuracy_loss),
                (f"broken traces change by {rise['change']:+.3f}", rise["ci"][1] > max_broken),
                (f"neutral text moves by {kl:.3f} nats a token", kl > max_kl),
            )
            if wrong
        ]
        reason = "; ".join(bad) if bad else (
            f"accuracy changes by {loss['change']:+.3f}, broken traces by {rise['change']:+.3f}, neutral "
            f"text by {kl:.3f} nats a token"
        )  # fmt: skip
        return Gate(
            "side_effects", not bad, reason, loss["change"], _pair(loss["ci"]), None,
            {"traces": table, "neutral": neutral},
        )  # fmt: skip

    def _steered(self):
        edits = [
            Add(v, layer, float(v.norm()) * self.dose, 1.0)
            for layer, v in zip(self.steering.layers, self.steering.vectors[0], strict=True)
        ]
        return intervene(self.own.model, *edits)

    def stability(self, min_cosine: float) -> Gate:
        """Refits on resampled problems, at another read position and by another annotator point there."""
        layer = self.steering.main_layer
        vector = self.steering.vectors[0, self.steering.layers.index(layer)].double().numpy()
        try:
            y = check_labels(self.store, self.behavior)
        except ValueError as error:
            return Gate("stability", None, str(error))
        x = self.store[hook_name("resid_post", layer), "before"]
        groups = np.unique(self.store.groups, return_inverse=True)[1]
        weights = bootstrap_weights(int(groups.max()) + 1, N_REFITS, self.seed)
        cosines = []
        for w in weights:
            rows = np.repeat(np.arange(len(groups)), w[groups].astype(int))
            found = mean_difference(x[rows], y[rows], "matched", self.store.previous[rows])
            cosines.append(_cosine(found, vector))
        reads = {
            read: _cosine(
                mean_difference(
                    self.store[hook_name("resid_post", layer), read],
                    y,
                    "matched",
                    self.store.previous,
                ),
                vector,
            )
            for read in ("before", "mean")
        }
        mean, low, high = float(np.mean(cosines)), *np.quantile(cosines, [0.025, 0.975])
        reason = f"refits on resampled problems have a mean cosine of {mean:.2f} with it"
        return Gate(
            "stability", mean >= min_cosine, reason, mean, (float(low), float(high)), None, {"reads": reads}
        )  # fmt: skip

    def transfer(self, min_share: float) -> Gate:
        """It raises the behavior's probability in the pair's other model, too."""
        if self.other is None:
            return Gate("transfer", None, "there is no second model: give --pair")
        here, groups = probability_effect(self.own, self.behavior, self.steering, self.dose)
        there, others = probability_effect(self.other, self.behavior, self.steering, self.dose)
        own, away = mean_effect(here, groups, self.seed), mean_effect(there, others, self.seed)
        share = away["effect"] / own["effect"] if own["effect"] > 0 else None
        passed = share is not None and share >= min_share and away["ci"][0] > 0
        reason = (
            f"it raises the probability by {own['effect']:+.3f} in {self.own.model.name} and by "
            f"{away['effect']:+.3f} in {self.other.model.name}"
        )
        details = {"own": own, "other": away, "tasks": None, "templates": None}
        return Gate("transfer", passed, reason, away["effect"], _pair(away["ci"]), None, details)

    def redundancy(self, min_share: float) -> Gate:
        """Projecting it out takes away what a linear probe reads; how many directions that needs in all."""
        layer = self.steering.main_layer
        key = hook_name("resid_post", layer), "before"
        vector = self.steering.vectors[0, self.steering.layers.index(layer)].double().numpy()
        y, y_test = (store.labels == self.behavior for store in (self.store, self.report))
        curve = removal_curve(self.store[key], y, self.report[key], y_test, N_REMOVALS, vector)
        best = removal_curve(self.store[key], y, self.report[key], y_test, 1)
        taken = (curve[0] - curve[1]) / max(best[0] - best[1], 1e-6)
        gone = [k for k, auroc in enumerate(curve) if auroc <= 0.6]
        reason = (
            f"a probe's AUROC goes from {curve[0]:.2f} to {curve[1]:.2f} without it, to {best[1]:.2f} without "
            f"the probe's own direction, and below 0.60 "
            + (
                f"after {gone[0]} directions"
                if gone
                else f"not even after {len(curve) - 1} directions"
            )
        )
        details = {"curve": curve, "own_curve": best}
        return Gate("redundancy", taken >= min_share, reason, taken, None, None, details)

    def prompt(self, min_gain: float) -> Gate:
        """It raises the behavior more than asking for it does."""
        model, config = self.own.model, self.own.config
        asked = [_asking(problem, self.words) for problem in self.task.problems]
        traces = generate(model, asked, self.task.grade, seed=self.seed)
        told = count(model, traces, config.annotator, self.own.after)
        gain = rate_change(told, self.steered, self.evidence.behavior, self.seed)
        passed = gain["ci"] is not None and gain["ci"][0] > min_gain
        reason = (
            f"steered, the rate is {self.steered.rate(self.evidence.behavior):.3f}; with "
            f"{self.words!r} before each problem {told.rate(self.evidence.behavior):.3f}"
        )
        return Gate("prompt", passed, reason, gain["effect"], _pair(gain["ci"]))

    def fired(self, max_error: float) -> Gate:
        """The edit was made in every trace, at the length asked for."""
        errors = [
            abs(self.audit.mean_change(layer) / (float(v.norm()) * self.dose) - 1)
            for layer, v in zip(self.steering.layers, self.steering.vectors[0], strict=True)
        ]
        rows = len(self.audit.rows)
        passed = rows == len(self.traces) and max(errors) <= max_error
        n = sum(self.audit.positions.values())
        reason = (
            f"{n} positions of {rows} of {len(self.traces)} traces over {len(self.audit.steps)} steps, length "
            f"off by {max(errors):.2%} at most"
        )
        return Gate("fired", passed, reason, max(errors), details={"positions": n, "rows": rows})


def _asking(problem: Problem, words: str) -> Problem:
    return replace(problem, prompt=f"{words} {problem.prompt}")


def _cosine(a: Float[np.ndarray, " d_model"], b: Float[np.ndarray, " d_model"]) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def _pair(ci: list[float] | None) -> tuple[float, float] | None:
    return None if ci is None else (ci[0], ci[1])
