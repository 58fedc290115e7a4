"""Shards of work give the same numbers here, in a pool and on a Ray cluster, whoever dies meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from interp.activations import collect
from interp.cli import main
from interp.config import Config
from interp.divergence.reading import resid_before
from interp.divergence.tokens import score
from interp.engine import HERE, open_engine
from interp.engine.work import AHEAD
from interp.errors import UserError
from interp.hybrid.outcomes import Bench
from interp.hybrid.writing import Writer
from interp.models import load_model
from interp.pairs import Pair, load_pair
from interp.pipeline import run_main_job
from interp.progress import Progress
from interp.tasks import load_task
from interp.traces import Job, generate, generate_all, read_traces
from interp.types import Segment
from interp.vocabulary import shared_vocabulary
from tests.commands.small import finish, start
from tests.interp import shards_of_work as work
from tests.interp.conftest import PROBLEMS


@pytest.fixture(scope="module")
def address():
    """A Ray cluster of this test's own: a head without a CPU, and two workers with one each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    before = dict(os.environ)
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for _ in range(2):
        cluster.add_node(num_cpus=1, **small)
    yield cluster.address
    cluster.shutdown()
    os.environ.clear()
    os.environ |= before


@pytest.fixture(scope="module")
def pool():
    with open_engine("local", 2) as engine:
        yield engine


@pytest.fixture(scope="module")
def ray(address):
    with open_engine("ray", address=address) as engine:
        yield engine


@pytest.fixture(params=["pool", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request):
    return request.getfixturevalue(request.param)


def refused(*options) -> str:
    with pytest.raises(UserError) as caught, open_engine(*options):
        pass
    return str(caught.value)


def test_engines_that_are_not_there_are_one_sentence(monkeypatch):
    # Before any test connects this process to a cluster.
    assert "did you mean local" in refused("locale")
    assert "leave it out" in refused("local", 2, "localhost:6379")
    for name, workers in (("local", 0), ("local", -2), ("ray", 0)):
        assert f"{workers} workers were given, expected at least 1" in refused(name, workers)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'whenlens[ray]'" in refused("ray")


@pytest.mark.parametrize("command", ["run", "hybrid", "diverge"])
@pytest.mark.parametrize(
    "options, words",
    [
        ("--engine locale", "Unknown engine 'locale': did you mean local?"),
        ("--workers 0", "0 workers were given, expected at least 1: raise --workers."),
        ("--address 127.0.0.1:1", "was given for local processes: use it with --engine ray"),
        ("--engine ray --address 127.0.0.1:1", "Ray at '127.0.0.1:1' does not answer"),
        ("--engine ray --address here", "as HOST:PORT."),
        ("--engine ray --address auto", "Ray at 'auto' does not answer"),
    ],
)
def test_commands_refuse_engines_in_one_sentence(
    monkeypatch, capsys, tmp_path, command, options, words
):
    if "ray" in options:
        pytest.importorskip("ray")
    out = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["whenlens", command, "--out", str(out), *options.split()])
    with pytest.raises(SystemExit) as left:
        main()
    printed, errors = capsys.readouterr()
    assert left.value.code == 2 and not printed and not out.exists()
    assert errors.startswith("Error: ") and words in errors and errors.count("\n") == 1


def test_without_workers_a_run_stays_in_its_process_as_it_is():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with open_engine() as engine:
            [found] = engine.map_shards(work.circumstances, [0])
    finally:
        torch.set_num_threads(before)
    assert found == (os.getpid(), before + 1)


def test_results_come_in_the_order_of_their_shards(engine):
    assert list(engine.map_shards(work.late_square, range(9))) == [n * n for n in range(9)]
    assert list(engine.map_shards(work.square, [])) == []


def test_sums_have_the_same_last_bits_everywhere(engine):
    with open_engine("local", 1) as alone:
        expected = list(alone.map_shards(work.sums, range(4)))
    for found, one in zip(engine.map_shards(work.sums, range(4)), expected, strict=True):
        assert torch.equal(found, one)


def test_shards_run_elsewhere_on_as_many_threads_as_here(engine):
    with open_engine("local", 1) as alone:
        [(_, expected)] = alone.map_shards(work.circumstances, [0])
    for process, found in engine.map_shards(work.circumstances, range(3)):
        assert process != os.getpid() and found == expected


def test_the_number_of_threads_is_the_environments_while_the_engine_is_open(monkeypatch):
    before = torch.get_num_threads()
    for said, meant in (("3", 3), ("2,4", 2), ("", 1), ("many", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        with open_engine("local", 1) as engine:
            assert [n for _, n in engine.map_shards(work.circumstances, [0])] == [meant]
        assert torch.get_num_threads() == before


def test_workers_killed_at_work_lose_nothing_and_change_no_number(engine, tmp_path):
    expected = list(HERE.map_shards(work.sums, range(6)))
    found = list(engine.map_shards(partial(work.dies_once, tmp_path), range(6)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "4"]
    assert all(map(torch.equal, found, expected))


def test_a_worker_killed_between_two_maps_is_replaced(pool):
    for process in {pid for pid, *_ in pool.map_shards(work.circumstances, range(4))}:
        os.kill(process, signal.SIGKILL)
    assert list(pool.map_shards(work.square, range(4))) == [0, 1, 4, 9]


def test_a_shard_that_kills_every_worker_ends_in_one_sentence(engine):
    with pytest.raises(UserError, match="3 workers died on the same shard"):
        list(engine.map_shards(work.dies, range(3)))
    assert list(engine.map_shards(work.square, range(3))) == [0, 1, 4]


def test_errors_are_raised_as_themselves_after_what_came_before(engine):
    for last, kind, words in (
        (2, UserError, "Two was given"),
        (3, KeyError, "three"),
        (4, RuntimeError, "Odd: four"),
    ):
        shards = [n for n in range(5) if n in (0, 1, last)]
        results = engine.map_shards(work.fails, shards)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(kind, match=words) as caught:
            next(results)
        assert "in fails" in caught.value.__notes__[0]
    assert list(engine.map_shards(work.square, range(3))) == [0, 1, 4]


def test_what_cannot_travel_is_refused(engine, tiny):
    with pytest.raises(UserError, match="The function cannot be sent"):
        list(engine.map_shards(lambda n: n, range(3)))
    with pytest.raises(UserError, match="A shard cannot be sent"):
        list(engine.map_shards(work.square, [open(os.devnull)]))
    by_hand = replace(tiny, source=None)
    with pytest.raises(UserError, match="does not say where its weights come from"):
        list(engine.map_shards(partial(work.whose, by_hand), range(3)))
    with tiny.bridge.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda resid, hook: 2 * resid)]):
        with pytest.raises(UserError, match="while it is hooked or edited"):
            list(engine.map_shards(partial(work.whose, tiny), range(3)))


def test_shards_are_drawn_as_room_appears(engine):
    drawn = []

    def endless():
        for n in count():
            drawn.append(n)
            yield n

    results = engine.map_shards(work.square, endless())
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    results.close()
    assert len(drawn) < 30


def test_while_the_first_shard_is_slow_and_done_again_only_so_many_are_drawn(engine, tmp_path):
    drawn, most = [], AHEAD * 2  # workers

    def endless():
        for n in count():
            drawn.append(n)
            yield n

    results = engine.map_shards(partial(work.slow_and_dies_once, tmp_path, most - 1), endless())
    assert next(results) == 0 and (tmp_path / "died").exists()
    assert len(drawn) == most
    assert [next(results) for _ in range(3 * most)] == [n * n for n in range(1, 3 * most + 1)]
    assert len(drawn) <= 4 * most + 1
    results.close()


def test_whoever_stops_listening_stops_the_workers(pool, tmp_path):
    results = pool.map_shards(partial(work.stays, tmp_path), range(2))
    assert next(results) == 0
    while not (tmp_path / "1").exists() or not (tmp_path / "1").read_text():
        pass
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "1").read_text()), 0)
    assert list(pool.map_shards(work.square, range(3))) == [0, 1, 4]


def test_a_model_travels_by_name_and_is_loaded_once_a_worker(engine, tiny):
    found = list(engine.map_shards(partial(work.whose, tiny), range(6)))
    found += engine.map_shards(partial(work.whose, tiny), range(6))
    assert {fingerprint for *_, fingerprint in found} == {tiny.fingerprint}
    assert len(set(found)) == len({process for process, *_ in found})


def test_a_pair_travels_with_the_way_it_is_asked_and_has_its_fused_twin_there(engine, tiny_folder):
    models = [
        load_model(tiny_folder, name, "cpu", dtype=torch.bfloat16) for name in ("base", "thinking")
    ]
    for model in models:
        model.template, model.temperature = "Say {problem} now:", 0.25
    for one, other in ((models[0], models[0]), models):
        pair = Pair("pair", one, other)
        asked = ("Say {problem} now:", 0.25, torch.bfloat16, one is other, True, True)
        assert set(engine.map_shards(partial(work.how, pair), range(4))) == {asked}


def test_stages_give_the_same_numbers_everywhere(engine, tiny_folder, tmp_path):
    """With a model that is asked in another way, on another task, in the formats that files have."""
    model = load_model(tiny_folder, "tiny", device="cpu")
    model.template, model.temperature = "Say {problem} now:", 0.25
    task = load_task("questions")
    jobs = [
        Job(f"{n}.jsonl", model, task.problems()[n : n + 3], task.grade, n < 4, 7)
        for n in (0, 3, 6)
    ]
    found = {}
    for name, one in (("here", HERE), ("there", engine)):
        folder = tmp_path / name
        folder.mkdir()
        generate_all(folder, jobs, Progress(), 30, one)
        traces = [trace for job in jobs for trace in read_traces(folder / job.file)]
        spans = [[Segment(t.n_prompt, len(t.tokens), "")] for t in traces]
        store = collect(model, traces, spans, batch_size=2, reads=["mean"], engine=one)
        resid = resid_before(model, traces, [(i, 1) for i in range(len(traces))], one)
        scored = score(
            Pair("alone", model, model), shared_vocabulary(model, model), traces, engine=one
        )
        found[name] = traces, store.values, resid, [vars(row) for row in scored]
    here, there = found["here"], found["there"]
    assert here[0] == there[0]
    torch.testing.assert_close(list(here[1:]), list(there[1:]), rtol=0, atol=0)


def test_a_model_writes_the_same_tokens_everywhere(engine, tiny):
    shards = [PROBLEMS[:5], PROBLEMS[5:8], PROBLEMS[8:]]
    fn = partial(work.written, tiny)
    assert list(engine.map_shards(fn, shards)) == list(HERE.map_shards(fn, shards))


def test_other_weights_under_the_same_name_are_refused(pool, save_random, tmp_path):
    shutil.copytree(save_random(), tmp_path / "model")
    model = load_model(tmp_path / "model", device="cpu")
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(save_random(seed=1), tmp_path / "model")
    with pytest.raises(UserError, match="other weights here"):
        list(pool.map_shards(partial(work.whose, model), range(2)))


@pytest.mark.slow
def test_arms_and_divergences_of_a_pair_are_the_same_numbers_on_ray(ray, monkeypatch, tmp_path):
    # Shards so small that a few problems make several, for each arm and each score.
    monkeypatch.setattr("interp.hybrid.outcomes.SHARD", 4)
    monkeypatch.setattr("interp.divergence.tokens.N_TOKENS", 256)
    pair, problems = load_pair("countdown-rl", device="cpu"), PROBLEMS[:6]
    vocabulary = shared_vocabulary(pair.base, pair.thinking)
    arms = work.arms(pair.base.d_model, pair.base.bridge.cfg.d_vocab)
    writer = Writer(pair, True, 24, load_task("countdown").grade)
    found = []
    with open_engine("local", 1) as alone:
        traces = generate(pair.thinking, problems, sampled=True, max_new_tokens=40)
        places = [(i, k) for i in range(len(traces)) for k in (0, 3)]
        for name, one in (("here", alone), ("there", ray)):
            (tmp_path / name).mkdir()
            bench = Bench(writer, problems, tmp_path / name, one)
            asked = [bench.arm(name, 3, partial(arms.get, name), True) for name in arms]
            done = [(outcome.numbers, outcome.rows) for outcome in bench.outcomes(asked)]
            resid = [resid_before(m, traces, places, one) for m in (pair.base, pair.thinking)]
            apart = [vars(row) for row in score(pair, vocabulary, traces, engine=one)]
            found.append((done, resid, apart))
    (here, *floats), (there, *others) = found
    torch.testing.assert_close(floats, others, rtol=0, atol=0)
    for (numbers, rows), (others, same) in zip(here, there, strict=True):
        assert rows == same and numbers.keys() == others.keys()
        assert all((numbers[field] == others[field]).all() for field in numbers)
        assert numbers["steered"].sum() > 0


SMALL = {
    "n_fit": 30, "n_select": 16, "n_report": 12, "n_random": 20, "n_shuffled": 1, "n_points": 8, "layers": (2, 3),
    "n_null_problems": 2, "max_new_tokens": 60, "null_new_tokens": 16, "behaviors": ("subgoal-setting",),
}  # fmt: skip
CODE = f"""
import interp.presets
interp.presets.config_for = lambda pair, seed, **given: interp.presets.Config(pair, **{SMALL!r})
from interp.cli import main
main()
"""


def workers_of_ray() -> list[int]:
    """Process ids of those of this test's cluster that are at work on a shard."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()[1:]]
    parent = {int(pid): int(above) for pid, above, _ in rows}
    at_work = [int(pid) for pid, _, args in rows if args.startswith("ray::_task")]
    return [pid for pid in at_work if parent.get(parent[pid]) == os.getpid()]


def made(out: Path) -> dict:
    """The numbers of a run and all of its traces, without what says when and how."""
    found = json.loads((out / "results.json").read_text())
    del found["timings"], found["command"]
    return found | {p.name: p.read_text() for p in out.glob("stages/traces-*/*.jsonl")}


@pytest.mark.slow
def test_a_process_keeps_the_cluster_that_it_is_connected_to(ray):
    with open_engine("ray") as same:
        assert list(same.map_shards(work.square, range(3))) == [0, 1, 4]
    assert list(ray.map_shards(work.square, range(3))) == [0, 1, 4]
    assert "connected to a Ray cluster already" in refused("ray", None, "127.0.0.1:1")


@pytest.mark.slow
def test_a_run_on_a_cluster_with_a_worker_killed_at_work_gives_the_numbers_of_one_process(
    address, tmp_path
):
    run = start(CODE, f"run --engine ray --address {address} --out", tmp_path / "ray")
    killed: list[int] = []
    while run.poll() is None and not killed:
        time.sleep(0.05)
        if list((tmp_path / "ray" / "stages").glob("causal-*")) and (
            killed := workers_of_ray()[:1]
        ):
            os.kill(killed[0], signal.SIGKILL)
    with open_engine("local", 1) as engine:
        run_main_job(Config("countdown-rl", **SMALL), tmp_path / "here", "", engine=engine)
    finish(run)
    assert killed
    assert made(tmp_path / "ray") == made(tmp_path / "here")
