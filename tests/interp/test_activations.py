"""Collected activations equal indexing the full cache, trace by trace."""

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp import ActivationWriter, Shards
from interp.activations import collect, load_store
from interp.behaviors import segment
from interp.errors import UserError
from interp.interventions import Add, intervene
from interp.models import load_model
from interp.pooling import READS, SITES, hook_name, pool_batch, read_span
from interp.tasks import load_task
from interp.traces import generate
from interp.types import Segment, Trace
from tests.interp.conftest import as_traces

ALL = load_task("countdown").problems()
PROBLEMS = list(ALL[:: len(ALL) // 9])[:9]


@pytest.fixture(scope="module")
def traces(sharp):
    """Traces of very different lengths; the second has no completion but its end."""
    found = generate(sharp, PROBLEMS, max_new_tokens=30)
    cut = [replace(t, tokens=t.tokens[: t.n_prompt + 3 + 4 * i]) for i, t in enumerate(found)]
    eos = sharp.tokenizer.eos_token_id
    cut = [replace(t, stopped=t.tokens[-1] == eos) for t in cut]
    bare = replace(cut[1], tokens=(*cut[1].tokens[: cut[1].n_prompt], eos), stopped=True)
    return [cut[0], bare, *cut[2:]]


@pytest.fixture(scope="module")
def segments(sharp, traces):
    names = ["deduction", "verification", None, "backtracking"]
    return [
        [replace(s, behavior=names[(i + k) % 4]) for k, s in enumerate(segment(sharp, trace))]
        for i, trace in enumerate(traces)
    ]


def positions(read, part):
    """The token positions of a read, written down one by one."""
    if read == "before":
        return [part.start - 1]
    if read == "first":
        return [part.start]
    if read == "mean":
        return [part.start - 1, *range(part.start, part.end)]
    assert read == "-13:-8"
    return [p for p in (part.start + offset for offset in range(-13, -7)) if p >= 0]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_collect_equals_indexing_the_full_cache(sharp, traces, segments, tmp_path, batch_size):
    store = collect(sharp, traces, segments, tmp_path, sites=SITES, batch_size=batch_size)
    found = {key: store[key] for key in store.values}
    assert set(found) == {
        (f"blocks.{layer}.hook_{site}", read)
        for layer in range(3)
        for site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
        for read in ("before", "first", "mean", "-13:-8")
    }
    row = 0
    for t, (trace, parts) in enumerate(zip(traces, segments, strict=True)):
        with torch.no_grad():
            _, cache = sharp.bridge.run_with_cache(
                torch.tensor([trace.tokens]),
                names_filter=lambda name: any(f"hook_{site}" in name for site in SITES),
            )
        for s, part in enumerate(parts):
            for (hook, read), values in found.items():
                slow = torch.stack([cache[hook][0, p] for p in positions(read, part)]).mean(0)
                np.testing.assert_allclose(values[row], slow.numpy(), atol=1e-5)
            assert (store.trace_index[row], store.segment_index[row]) == (t, s)
            assert store.labels[row] == (part.behavior or "")
            assert store.previous[row] == ((parts[s - 1].behavior or "") if s else "start")
            assert store.groups[row] == trace.problem_id
            row += 1
    assert row == len(store) > 20


def test_resid_pre_is_hugging_faces_hidden_state(sharp, slow, traces, segments, tmp_path):
    store = collect(sharp, traces, segments, tmp_path, sites=("resid_pre",), reads=("before",))
    row = 0
    for trace, parts in zip(traces, segments, strict=True):
        with torch.no_grad():
            ids = torch.tensor([trace.tokens])
            states = slow.model(ids, output_hidden_states=True).hidden_states
        for part in parts:
            for layer in range(3):
                found = store[f"blocks.{layer}.hook_resid_pre", "before"][row]
                expected = states[layer][0, part.start - 1].numpy()
                np.testing.assert_allclose(found, expected, atol=1e-5)
            row += 1


def test_an_interrupted_collection_computes_only_what_is_missing(sharp, traces, segments, tmp_path):
    whole = collect(sharp, traces, segments, tmp_path, batch_size=3)
    shards = sorted(tmp_path.glob("shard-*"))
    assert len(shards) == 3
    bytes_before = [path.read_bytes() for path in shards]
    stamps = [path.stat().st_mtime_ns for path in shards]
    shards[1].unlink()
    again = collect(sharp, traces, segments, tmp_path, batch_size=3)
    after = [path.stat().st_mtime_ns for path in shards]
    assert (after[0], after[2]) == (stamps[0], stamps[2])
    assert after[1] != stamps[1]
    assert [path.read_bytes() for path in shards] == bytes_before
    for key, values in whole.values.items():
        assert torch.equal(values, again.values[key])


def test_a_half_written_shard_is_not_read(sharp, traces, segments, tmp_path):
    whole = collect(sharp, traces, segments, tmp_path, batch_size=3)
    shard = tmp_path / "shard-0002.safetensors"
    shard.with_suffix(".partial").write_bytes(shard.read_bytes()[:100])
    shard.unlink()
    again = collect(sharp, traces, segments, tmp_path, batch_size=3)
    for key, values in whole.values.items():
        assert torch.equal(values, again.values[key])


def test_the_store_is_read_back_from_disk(sharp, traces, segments, tmp_path):
    store = collect(sharp, traces, segments, tmp_path, batch_size=2, layers=[2, 0])
    back = load_store(tmp_path, traces, segments, "sharp")
    assert set(back.values) == {(f"blocks.{x}.hook_resid_post", r) for x in (0, 2) for r in READS}
    for key, values in store.values.items():
        assert torch.equal(values, back.values[key])


def test_shards_of_another_model_are_not_taken_for_this_ones(
    sharp, tiny, traces, segments, tmp_path
):
    collect(sharp, traces, segments, tmp_path / "a", layers=[1])
    fresh = collect(tiny, traces, segments, tmp_path / "b", layers=[1])
    try:
        found = collect(tiny, traces, segments, tmp_path / "a", layers=[1])
    except UserError:
        return
    for key, values in fresh.values.items():
        assert torch.equal(values, found.values[key])


@pytest.mark.parametrize("first", [1, 2, 5, 9])
def test_shards_of_another_batch_size_do_not_mix_in(sharp, traces, segments, tmp_path, first):
    asked = {"layers": [1], "reads": ["first"]}
    collect(sharp, traces, segments, tmp_path / "a", **asked, batch_size=first)
    fresh = collect(sharp, traces, segments, tmp_path / "b", **asked, batch_size=4)
    try:
        found = collect(sharp, traces, segments, tmp_path / "a", **asked, batch_size=4)
    except UserError:
        return
    for key, values in fresh.values.items():
        torch.testing.assert_close(found.values[key], values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", ["layers", "segments"])
def test_shards_of_another_request_are_not_taken_for_this_one(
    sharp, traces, segments, tmp_path, change
):
    fewer = [parts[:-1] for parts in segments] if change == "segments" else segments
    layers = [0] if change == "layers" else [1]
    collect(sharp, traces, fewer, tmp_path / "a", layers=layers)
    fresh = collect(sharp, traces, segments, tmp_path / "b", layers=[1])
    try:
        found = collect(sharp, traces, segments, tmp_path / "a", layers=[1])
    except UserError:
        return
    assert set(found.values) == set(fresh.values)
    for key, values in fresh.values.items():
        assert torch.equal(found.values[key], values)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": [3]}, "Layer 3 is out of range.*0 to 2"),
        ({"layers": [-1]}, "Layer -1 is out of range"),
        ({"sites": ["resid_end"]}, "resid_end.*resid_pre"),
        ({"reads": ["after"]}, "after.*before"),
        ({"reads": ["-8:-13"]}, "-8:-13"),
        ({"reads": ["1:2:3"]}, "1:2:3"),
    ],
)
def test_a_wrong_request_is_one_clear_error(sharp, traces, segments, tmp_path, asked, message):
    with pytest.raises(UserError, match=message):
        collect(sharp, traces, segments, tmp_path, **asked)
    assert not list(tmp_path.glob("*.safetensors"))


def test_no_segments_is_an_error(sharp, traces, tmp_path):
    with pytest.raises(UserError, match="no segments"):
        collect(sharp, traces, [[] for _ in traces], tmp_path)


def test_an_unknown_key_names_what_the_store_holds(sharp, traces, segments, tmp_path):
    store = collect(sharp, traces, segments, tmp_path, layers=[1], reads=["first"])
    with pytest.raises(UserError, match="blocks.1.hook_resid_post@first"):
        store["blocks.0.hook_resid_post", "first"]


def test_weights_that_are_not_a_number_are_an_error(save_random, traces, segments, tmp_path):
    folder = save_random()
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        collect(load_model(folder, device="cpu"), traces, segments, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_window_past_the_end_of_the_text_is_refused(sharp, traces, segments, tmp_path):
    # No token lies there: whatever is given back must not pass for an activation.
    with pytest.raises(UserError):
        collect(sharp, traces, segments, tmp_path, reads=["200:210"])


def test_read_spans_begin_at_the_text():
    assert read_span("-13:-8", 10, 14) == (0, 3)
    assert read_span("-13:-8", 20, 24) == (7, 13)
    assert read_span("0:0", 20, 24) == (20, 21)
    assert hook_name("resid_mid", 2) == "blocks.2.hook_resid_mid"


def test_batches_appended_while_traces_are_made_are_those_of_one_collection(
    sharp, traces, segments, tmp_path
):
    whole = collect(sharp, traces, segments, tmp_path / "whole", batch_size=3, dtype="bfloat16")
    folder = tmp_path / "grown"
    for last in (3, 9):  # as if killed after three traces
        with ActivationWriter(sharp, folder, dtype="bfloat16") as writer:
            for begin in range(0, last, 3):
                part = slice(begin, begin + 3)
                writer.append(traces[part], segments[part])
                so_far = Shards(folder).n_traces
                store = load_store(folder, traces[:so_far], segments[:so_far], sharp.name)
                for key in whole.values:
                    np.testing.assert_array_equal(store[key], whole[key][: len(store)])
    assert len(store) == len(whole)
    exact = collect(sharp, traces, segments, batch_size=3)
    for key, values in exact.values.items():
        assert torch.equal(values.bfloat16().float(), whole.values[key])


def test_a_damaged_shard_is_told_and_is_all_that_is_computed_again(
    sharp, traces, segments, tmp_path, monkeypatch
):
    asked = {"folder": tmp_path, "batch_size": 4}
    before = collect(sharp, traces, segments, **asked).values["blocks.1.hook_resid_post", "mean"]
    path = tmp_path / "shard-0001.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)
    batches = []

    def counted(model, traces, *rest):
        batches.append(traces)
        return pool_batch(model, traces, *rest)

    monkeypatch.setattr("interp.activation_writer.pool_batch", counted)
    with pytest.raises(UserError, match="shard-0001.safetensors' is damaged"):
        collect(sharp, traces, segments, **asked)
    path.unlink()
    after = collect(sharp, traces, segments, **asked).values["blocks.1.hook_resid_post", "mean"]
    assert batches == [traces[4:8]] and torch.equal(before, after)


def test_batches_are_pooled_while_those_before_are_written_and_ctrl_c_keeps_them(
    sharp, traces, segments, tmp_path, monkeypatch
):
    whole = collect(sharp, traces, segments, tmp_path / "whole", batch_size=2, dtype="bfloat16")
    pooled, apart = [Event() for _ in range(5)], []
    folder, stopped = tmp_path / "stopped", True

    def counted(model, some, *rest):
        number = traces.index(some[0]) // 2
        pooled[number].set()
        if stopped and number == 3:
            raise KeyboardInterrupt
        return pool_batch(model, some, *rest)

    def slow_save(tensors, path, metadata):
        number = int(path.stem.removeprefix("shard-"))
        apart.append(number == 4 or pooled[number + 1].wait(60))
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("interp.activation_writer.pool_batch", counted)
    monkeypatch.setattr("interp.shard_writer.save_file", slow_save)
    with pytest.raises(KeyboardInterrupt):
        collect(sharp, traces, segments, folder, batch_size=2, dtype="bfloat16")
    assert Shards(folder).n_traces == 6 and apart == [True] * 3
    stopped = False
    again = collect(sharp, traces, segments, folder, batch_size=2, dtype="bfloat16")
    assert apart == [True] * 5
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
    for key in whole.values:
        np.testing.assert_array_equal(again[key], whole[key])


def test_a_store_of_other_traces_is_refused(sharp, traces, segments, tmp_path):
    collect(sharp, traces, segments, tmp_path, batch_size=4, layers=[1])
    with pytest.raises(UserError, match="shard-0000.*not collected from traces 0 to 3"):
        load_store(tmp_path, traces[::-1], segments[::-1], sharp.name)
    with pytest.raises(UserError, match="shard-0001.*not collected from traces 4 to 7"):
        load_store(tmp_path, traces[:6], segments[:6], sharp.name)
    with pytest.raises(UserError, match="activations of 9 traces and 10 are given"):
        load_store(tmp_path, [*traces, traces[0]], [*segments, segments[0]], sharp.name)


def test_rows_of_a_store_are_read_when_they_are_asked_for(sharp, traces, segments, tmp_path):
    store = collect(sharp, traces, segments, tmp_path, layers=[1])
    mask = np.arange(len(store)) % 3 == 0
    part = store.rows(mask)
    assert list(part.values) == list(store.values) and len(part) == mask.sum()
    for key in store.values:
        np.testing.assert_array_equal(part[key], store[key][mask])
    with pytest.raises(UserError, match="No activations for blocks.9@mean"):
        part["blocks.9", "mean"]


def test_an_edit_at_starts_is_read_where_it_is_made_in_generation(sharp):
    texts = [[1, *range(20, 41)], [1, *range(30, 45)]]
    traces = [Trace(str(i), "m", "", "", tuple(x), 4, True, True) for i, x in enumerate(texts)]
    parts = [[Segment(t, t + 1, "") for t in range(1, len(x))] for x in texts]
    added = Add(torch.randn(32, generator=torch.Generator().manual_seed(0)), 1, 0.5, 10.0)
    with intervene(sharp, added) as audit:
        store = collect(sharp, traces, parts, layers=[1], reads=["first"])
    plain = collect(sharp, traces, parts, layers=[1], reads=["first"])
    name = "blocks.1.hook_resid_post", "first"
    moved = np.abs(store[name] - plain[name]).max(1) > 1e-3
    expected = [
        t == 3 or (t > 3 and bool(sharp.boundary[x[t]])) for x in texts for t in range(1, len(x))
    ]
    assert moved.tolist() == expected and 0 < sum(expected) < len(expected)
    assert audit.positions[1] == sum(expected)


def test_what_is_edited_or_hooked_is_not_kept_in_a_folder(sharp, tmp_path):
    traces, parts = as_traces([[1, *range(20, 41)]])
    with sharp.bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: 2 * x)]):
        with pytest.raises(UserError, match="leave the folder out"):
            collect(sharp, traces, parts, tmp_path / "kept")
        doubled = collect(sharp, traces, parts)
    assert not (tmp_path / "kept").exists()
    plain = collect(sharp, traces, parts, tmp_path / "kept")
    name = "blocks.2.hook_resid_post", "first"
    assert np.abs(doubled[name] - plain[name]).max() > 1e-3


def test_numbers_of_another_format_are_another_store(tiny, tiny_folder, tmp_path):
    traces, parts = as_traces([[1, *range(20, 41)]])
    half = load_model(tiny_folder, device="cpu", dtype=torch.bfloat16)
    assert half.fingerprint == tiny.fingerprint and half.numbers != tiny.numbers
    name = "blocks.2.hook_resid_post", "first"
    full = np.array(collect(tiny, traces, parts, tmp_path)[name])
    other = np.array(collect(half, traces, parts, tmp_path)[name])
    assert 0 < np.abs(full - other).max() < 1


def test_a_span_beyond_the_text_is_refused(sharp):
    traces, _ = as_traces([[1, *range(20, 41)]])
    with pytest.raises(UserError, match="lies outside of its trace of 22 tokens"):
        collect(sharp, traces, [[Segment(5, 1000, "")]], reads=["mean"])
