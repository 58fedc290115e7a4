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

from interp.engine import HERE, open_engine
from interp.errors import UserError
from interp.models import load_model
from tests.commands.small import finish, start
from tests.interp import shards_of_work as work
from tests.interp.conftest import PROBLEMS


@pytest.fixture(scope="module")
def address():
    """A Ray cluster of this test's own: a head without a CPU, and two workers with one each."""
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
    assert "does not answer" in refused("ray", None, "127.0.0.1:1")
    assert "HOST:PORT" in refused("ray", None, "here")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'whenlens[ray]'" in refused("ray")


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


CODE = """
from dataclasses import dataclass
import interp.config

@dataclass(frozen=True)
class Small(interp.config.Config):
    n_fit: int = 60
    n_select: int = 30
    n_shuffled: int = 2
    n_points: int = 24
    n_null_problems: int = 4

interp.config.Config = Small
from interp.cli import main
main()
"""
ARGUMENTS = "run --n-report 20 --n-random 20 --behavior subgoal-setting --workers {} --out"


def workers_of_ray() -> list[int]:
    """Process ids of those that are at work on a shard."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if " ray::_task" in line]


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
    finish(start(CODE, ARGUMENTS.format(1), tmp_path / "here"))
    run = start(
        CODE, ARGUMENTS.format(2), tmp_path / "ray", "--engine", "ray", "--address", address
    )
    killed: list[int] = []
    while run.poll() is None and not killed:
        time.sleep(0.05)
        if list((tmp_path / "ray" / "stages").glob("causal-*")) and (
            killed := workers_of_ray()[:1]
        ):
            os.kill(killed[0], signal.SIGKILL)
    finish(run)
    assert killed
    assert made(tmp_path / "ray") == made(tmp_path / "here")
