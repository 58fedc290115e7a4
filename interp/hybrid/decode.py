"""Hybrid generation: the base writes, and where a controller says so its next token is steered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.cache import growing_cache
from interp.errors import UserError
from interp.hybrid.vectors import SteeringVectors
from interp.models import Model, look_every, widened
from interp.pooling import hook_name
from interp.queries import key_values, logits_above
from interp.traces import MAX_NEW_TOKENS, Batch, by_row, next_tokens
from interp.vocabulary import Vocabulary

GONE = -2
"""In place of a category where a row has ended."""
GRID = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Coefficients that a sweep tries, beside leaving the token unsteered."""


@dataclass(frozen=True)
class View:
    """What a controller sees of one decoding step, a row for each trace still going.

    `draws` [row] are uniform, for random positions and categories. Fields of the thinking
    model are None where no part of the arm needs it.
    """

    step: int
    base_logits: Float[Tensor, "row d_vocab"]
    base_resid: Float[Tensor, "row d_model"]
    thinking_logits: Float[Tensor, "row d_vocab"] | None
    thinking_resid: Float[Tensor, "row d_model"] | None
    draws: Float[Tensor, " row"]

    def at(self, rows: Int[Tensor, " row"]) -> "View":
        """The same step for some of the rows."""

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows]

        return View(
            self.step,
            self.base_logits[rows],
            self.base_resid[rows],
            pick(self.thinking_logits),
            pick(self.thinking_resid),
            self.draws[rows],
        )


@dataclass(frozen=True)
class Controller:
    """When to steer, and which category's vector to use."""

    name: str
    when: Callable[[View], Bool[Tensor, " row"]]
    which: Callable[[View], Int[Tensor, " row"]]
    needs_thinking: bool = True


Ask = Callable[[Float[Tensor, "row candidate d_model"]], Float[Tensor, "row candidate d_vocab"]]


@dataclass(frozen=True)
class Proposal:
    """The candidates for a steered token: logits from a view, categories, and the base itself.

    `layer` is where the base is edited, None where it is not. Whatever the controller says,
    `starts_only` keeps it to tokens that may start a segment, and `idle` categories are not steered.
    """

    candidates: Callable[[View, Tensor, Ask], Float[Tensor, "row candidate d_vocab"]]
    layer: int | None = None
    needs_thinking: bool = False
    starts_only: bool = False
    idle: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Arm:
    """A controller, what it proposes, and who chooses among candidates.

    The judge takes the `first`, the one that the `thinking` model finds likeliest, or a `random` one;
    the last two choose among the unsteered token as well. `thinking_layer` is where the
    thinking model's residual stream is read for the controller.
    """

    controller: Controller
    proposal: Proposal
    judge: str = "first"
    thinking_layer: int = 0

    @property
    def needs_thinking(self) -> bool:
        """Whether the thinking model has to run along."""
        return (
            self.controller.needs_thinking
            or self.proposal.needs_thinking
            or self.judge == "thinking"
        )


def steered(
    vectors: SteeringVectors, grid: Sequence[float] = (1.0,), network: bool = False
) -> Proposal:
    """Add each row's vector at every coefficient of the grid, or at the one that its network says."""
    candidates = partial(_shifted, vectors, grid, network)
    return Proposal(candidates, vectors.layer, starts_only=vectors.starts_only, idle=vectors.idle)


def _shifted(
    vectors: SteeringVectors,
    grid: Sequence[float],
    network: bool,
    view: View,
    categories: Tensor,
    ask: Ask,
) -> Tensor:
    shift = vectors.shift(categories)
    if network:
        if vectors.network is None:
            raise UserError(
                f"The vectors ({vectors.method}) have no coefficient network: train one with "
                "`with_network`, or use fixed coefficients."
            )
        shift = shift * vectors.network(view.base_resid, categories)[:, None]
    coefficients = torch.tensor(grid, device=shift.device)[:, None]
    return ask(view.base_resid[:, None] + coefficients * shift[:, None])


def _own(view: View, categories: Tensor, ask: Ask) -> Tensor:
    assert view.thinking_logits is not None  # `needs_thinking` says so
    return view.thinking_logits[:, None]


THINKING_TOKEN = Proposal(_own, needs_thinking=True)
"""The thinking model's own token: the ceiling of any steering at the same positions."""


def logit_bias(
    biases: Float[Tensor, "category d_vocab"], grid: Sequence[float] = (1.0,)
) -> Proposal:
    """Add to the base's logits instead of its residual stream."""
    return Proposal(partial(_biased, biases, grid))


def _biased(
    biases: Float[Tensor, "category d_vocab"],
    grid: Sequence[float],
    view: View,
    categories: Tensor,
    ask: Ask,
) -> Tensor:
    coefficients = torch.tensor(grid, device=biases.device)[:, None]
    return view.base_logits[:, None] + coefficients * biases[categories][:, None]


@dataclass
class Decoded:
    """One generated row: its new tokens, and for each whether it was steered, and by which category.

    `steered[t]` is the category or -1, `changed[t]` whether the token is another than the base's
    own, `eligible` the number of tokens that the proposal may steer, `edited` that of positions edited in
    the pass that chose a token, `passes` how many times a token passed through a whole model.
    """

    tokens: list[int]
    steered: list[int] = field(default_factory=list)
    changed: list[bool] = field(default_factory=list)
    eligible: int = 0
    edited: int = 0
    passes: float = 0.0


@torch.no_grad()
def decode_hybrid(
    base: Model,
    thinking: Model | None,
    prompts: Sequence[Sequence[int]],
    arm: Arm,
    draws: Float[Tensor, "row step stream"],
    sampled: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    thinking_prompts: Sequence[Sequence[int]] | None = None,
    vocabulary: Vocabulary | None = None,
) -> list[Decoded]:
    """Continue each prompt with the base, steered where the arm's controller says so.

    Both models read the same new tokens over caches of their own, after the same prompts unless there are
    `thinking_prompts`; only tokens of the `vocabulary` are said (default: all). A steered token costs one pass
    of one position through the blocks above the edited layer, for all candidates together; the edit leaves no
    trace in the cache, so nothing is steered but this token. To know which rows are steered is to wait for the
    device: on an accelerator every row's candidates are computed, and not counted in `passes` where they
    are not used. `draws` are uniform in [0, 1): stream 0 samples tokens, 1 serves the controller, 2 a random
    judge. Raises `UserError` where the arm needs a thinking model and there is none, and
    where a prompt leaves no room.
    """
    if arm.needs_thinking and thinking is None:
        raise UserError(
            f"The controller {arm.controller.name!r} reads the thinking model: give one, or choose a "
            "controller that needs none (entropy, first-token)."
        )
    if max_new_tokens < 1:
        raise UserError(
            f"The budget leaves {max_new_tokens} new tokens: give a budget longer than the prompt."
        )
    other = thinking if arm.needs_thinking else None
    batch = Batch(base, prompts)
    models, batches = [base], [batch]
    if other is not None:
        models.append(other)
        same = thinking_prompts is None
        batches.append(batch if same else Batch(other, thinking_prompts, ends=base.ends))
    sayable = (vocabulary or Vocabulary(base.bridge.cfg.d_vocab)).sayable
    caches = [growing_cache(model) for model in models]
    draws = draws.to(base.device)
    steered, changed = list[Tensor](), list[Tensor]()
    eligible_n = torch.zeros(len(prompts), dtype=torch.long, device=base.device)
    edited_n, passes = eligible_n.clone(), eligible_n.double()
    layer, kept = arm.proposal.layer, {}
    share = 0.0 if layer is None else (base.n_layers - 1 - layer) / base.n_layers
    hooks = [
        _keeping(kept, name, at, base.device)
        for name, at in (("base", layer or 0), ("thinking", arm.thinking_layer))
    ]
    for step in range(max_new_tokens):
        logits = []
        for i, model in enumerate(models):
            with model.bridge.hooks(fwd_hooks=[hooks[i]]):
                out = model.hf(past_key_values=caches[i], **batches[i].inputs())
            logits.append(sayable(widened(out.logits[:, -1])))
        now = draws[batch.places, step]
        view = View(
            step,
            logits[0],
            kept["base"],
            logits[1] if other else None,
            kept["thinking"] if other else None,
            now[:, 1],
        )
        uniforms = now[:, 0] if sampled else None
        own = next_tokens(view.base_logits, uniforms)
        tokens, used = own.clone(), torch.full_like(own, -1)
        edited = torch.zeros_like(batch.going)
        n_candidates = 0
        eligible = batch.starts[:, -1] if arm.proposal.starts_only else batch.going
        rows, which, acts = _candidate_rows(arm, view, batch.going & eligible)
        if len(rows):
            part = view.at(rows)
            used[rows] = which.where(acts, -1)
            ask = _ask(base, layer, caches[0], batch, rows)
            asked = sayable(arm.proposal.candidates(part, which, ask))
            n_candidates = asked.shape[1]
            u = None if uniforms is None else uniforms[rows, None].expand(-1, n_candidates)
            said, chosen = _judge(arm.judge, next_tokens(asked, u), own[rows], part, now[rows, 2])
            tokens[rows] = said.where(acts, own[rows])
            edited[rows] = chosen & acts if layer is not None else False
        steered.append(batch.by_prompt(used, GONE))
        changed.append(batch.by_prompt((tokens != own).long(), GONE))
        eligible_n += batch.by_prompt(eligible.long(), 0)
        edited_n += batch.by_prompt(edited.long(), 0)
        read = torch.stack([one.real.sum(1) for one in batches]).sum(0).double()
        passes += batch.by_prompt(read + (used >= 0) * (n_candidates * share), 0.0)
        keep, *_ = (one.say(tokens) for one in dict.fromkeys(batches))
        if batch.over:
            break
        if keep is not None:
            for cache in caches:
                cache.batch_select_indices(keep)
    rows = (
        batch.outputs(),
        by_row(steered, GONE),
        [[bool(x) for x in row] for row in by_row(changed, GONE)],
        *(x.tolist() for x in (eligible_n, edited_n, passes)),
    )
    return [Decoded(*row) for row in zip(*rows, strict=True)]


def _candidate_rows(
    arm: Arm, view: View, may: Bool[Tensor, " row"]
) -> tuple[Int[Tensor, " some"], Int[Tensor, " some"], Bool[Tensor, " some"]]:
    """The rows whose candidates are computed, the category of each, and whether it is steered by it."""
    when = arm.controller.when(view) & may
    waits = look_every(when.device) == 1
    rows = when.nonzero()[:, 0] if waits else torch.arange(len(when), device=when.device)
    if not len(rows):
        return rows, rows, when[rows]
    which = arm.controller.which(view.at(rows))
    idle = torch.tensor(sorted(arm.proposal.idle), dtype=which.dtype, device=which.device)
    acts = when[rows] & ~torch.isin(which, idle)
    return (rows[acts], which[acts], acts[acts]) if waits else (rows, which, acts)


def _keeping(kept: dict[str, Tensor], name: str, layer: int, device: torch.device):
    def hook(resid: Tensor, hook=None) -> None:
        kept[name] = widened(resid[:, -1].to(device))

    return hook_name("resid_post", layer), hook


def _ask(base: Model, layer: int | None, cache, batch: Batch, rows: Tensor) -> Ask:
    def ask(resid: Tensor) -> Tensor:
        assert layer is not None  # only proposals with a layer ask
        n, every = resid.shape[1], len(rows) == len(batch.mask)
        seen = batch.mask[rows].clone()
        seen[:, -1] = False  # a query stands in for the last position
        return logits_above(
            base,
            layer,
            resid,
            key_values(cache, None if every else rows),
            seen[:, None].expand(-1, n, -1),
            batch.positions[rows, -1:].expand(-1, n),
        )

    return ask


def _judge(
    judge: str,
    candidates: Int[Tensor, "row candidate"],
    own: Int[Tensor, " row"],
    view: View,
    draws: Float[Tensor, " row"],
) -> tuple[Int[Tensor, " row"], Bool[Tensor, " row"]]:
    """The token chosen for each row, and whether it is a steered candidate."""
    if judge == "first":
        return candidates[:, 0], torch.ones_like(own, dtype=torch.bool)
    every = torch.cat([own[:, None], candidates], 1)
    if judge == "thinking":
        assert view.thinking_logits is not None  # `needs_thinking` says so
        best = view.thinking_logits.gather(1, every).argmax(1)
    else:
        best = (draws * every.shape[1]).long().clamp_max(every.shape[1] - 1)
    return every.gather(1, best[:, None])[:, 0], best > 0
