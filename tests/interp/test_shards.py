"""A store of shards: what was written comes back, killed or damaged, in memory that does not grow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from interp import Shards
from interp.errors import UserError
from interp.shard_writer import ShardWriter
from interp.shards import MAX_INDEX, file_digest
from probes import StreamingLDA, StreamingLEACE, StreamingMeanDifference, leace

ROOT = Path(__file__).parents[2]
WIDTHS = {("blocks.0.hook_resid_post", "before"): 6, ("blocks.1.hook_resid_post", "-13:-8"): 4}
KEY = next(iter(WIDTHS))


def matrices(number: int, n: int = 50) -> dict:
    """The activations of shard `number`: the same whenever they are asked for."""
    r = torch.Generator().manual_seed(number)
    return {key: torch.randn(n + number, d, generator=r) * 3 + 1 for key, d in WIDTHS.items()}


def write(
    folder: Path, n_shards: int = 4, dtype: str = "float32", works: list | None = None, behind=False
):
    writer = ShardWriter(folder, "a model", WIDTHS, dtype)
    append = writer.append_behind if behind else writer.append
    for number in range(n_shards):

        def work(number=number):
            if works is not None:
                works.append(number)
            return matrices(number)

        append(f"text {number}", 1, work)
    writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_index(folder: Path, **fields) -> None:
    """Change the first shard's entry in the index, or what `Index` says of all."""
    index = json.loads((folder / "index.json").read_text())
    for name, value in fields.items():
        (index if name in index else index["shards"][0])[name] = value
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rows", [None, 1, 7, 1000])
def test_numbers_come_back_rounded_once_to_the_format(tmp_path, dtype, rows):
    write(tmp_path, dtype=dtype)
    shards = Shards(tmp_path)
    for key in WIDTHS:
        exact = torch.cat([matrices(number)[key] for number in range(4)])
        expected = exact.to(getattr(torch, dtype)).float()
        assert torch.equal(shards[key], expected)
        found, end = [], 0
        for at, x in shards.batches(key, rows):
            assert at.start == end and len(x) == at.stop - at.start <= (rows or 53)
            found.append(x)
            end = at.stop
        np.testing.assert_array_equal(np.concatenate(found), expected)
    assert shards.n_rows == 50 + 51 + 52 + 53 and shards.n_traces == 4


def test_fitters_that_read_shard_by_shard_equal_those_that_hold_everything(tmp_path):
    write(tmp_path)
    shards = Shards(tmp_path)
    labels = np.random.default_rng(0).integers(3, size=shards.n_rows)
    fitters = [kind(6) for kind in (StreamingMeanDifference, StreamingLDA, StreamingLEACE)]
    for at, x in shards.batches(KEY, 20):
        for fitter in fitters:
            fitter.update(x, labels[at])
    means, lda, eraser = fitters
    whole = torch.cat([matrices(number)[KEY] for number in range(4)]).double().numpy()
    for label in range(3):
        mine = labels == label
        np.testing.assert_allclose(
            means.direction(label), whole[mine].mean(0) - whole[~mine].mean(0), atol=1e-10
        )
        oracle = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1).fit(whole, mine)
        np.testing.assert_allclose(lda.direction(label, 0.1), oracle.coef_[0], atol=1e-9)
        np.testing.assert_allclose(
            eraser.eraser(label)(whole), leace(whole, mine)(whole), atol=1e-9
        )


KILLED = """
import sys, time
from pathlib import Path
from interp import shard_writer
from interp.shards import Index
from tests.interp.test_shards import write

save, index = shard_writer.save_file, Index.save

def stop():
    print("now", flush=True)
    time.sleep(600)

def half_a_file(tensors, path, metadata):
    save(tensors, path, metadata=metadata)
    if "0002" in path.name:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        stop()

def before_the_index(self, folder):
    if 2 in self.shards:
        stop()
    index(self, folder)

if sys.argv[2] == "within":
    shard_writer.save_file = half_a_file
else:
    Index.save = before_the_index
write(Path(sys.argv[1]), dtype="bfloat16", behind=sys.argv[3] == "behind")
"""


@pytest.mark.parametrize("way", ["awaited", "behind"])
@pytest.mark.parametrize("moment", ["within", "before the index"])
def test_a_writer_killed_in_a_shard_goes_on_there_and_ends_with_the_same_bytes(
    tmp_path, moment, way
):
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(folder), moment, way]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout and process.stdout.readline() == b"now\n"
    process.kill()
    process.communicate()
    assert Shards(folder).n_traces == 2  # whole shards are there to be read
    works: list[int] = []
    write(folder, dtype="bfloat16", works=works)
    assert works == [2, 3]
    write(tmp_path / "whole", dtype="bfloat16")
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_reader_sees_whole_shards_of_a_store_that_grows(tmp_path):
    writer = ShardWriter(tmp_path, "a model", WIDTHS, "float32")
    assert Shards(tmp_path).n_rows == 0 and Shards(tmp_path)[KEY].shape == (0, 6)
    for number in range(3):
        writer.append(f"text {number}", 1, lambda number=number: matrices(number))
        expected = torch.cat([matrices(n)[KEY] for n in range(number + 1)])
        assert torch.equal(Shards(tmp_path)[KEY], expected)


@pytest.mark.parametrize("place", [0, 5, 7, 9, 60, 0.5, -1])
def test_a_flipped_bit_is_found_and_its_file_named(tmp_path, place):
    write(tmp_path)
    path = tmp_path / "shard-0002.safetensors"
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if place == 0.5 else place] ^= 16
    path.write_bytes(data)
    shards = Shards(tmp_path)
    next(shards.batches(KEY))  # others can be read
    for read in (lambda: shards[KEY], shards.verify):
        with pytest.raises(UserError, match=r"^'[^']*shard-0002.safetensors' [^']*$") as told:
            read()
        assert str(told.value).count(". ") == 0


@pytest.mark.parametrize("change", ["short", "shorter than 8 bytes", "long", "gone"])
def test_a_file_that_is_cut_or_gone_is_named_and_made_again(tmp_path, change):
    write(tmp_path / "store")
    whole = contents(tmp_path / "store")
    path = tmp_path / "store" / "shard-0001.safetensors"
    data = path.read_bytes()
    path.unlink()
    damaged = {"short": data[:-1], "shorter than 8 bytes": data[:3], "long": data + b"\0"}
    if change in damaged:
        path.write_bytes(damaged[change])
    with pytest.raises(UserError, match="shard-0001.safetensors.*only what is missing"):
        Shards(tmp_path / "store").verify()
    path.unlink(missing_ok=True)
    works: list[int] = []
    write(tmp_path / "store", works=works)
    assert works == [1] and contents(tmp_path / "store") == whole


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "../shard-0000.safetensors", "/tmp/shard-0000.safetensors", "..",
     "shard-0.safetensors", "shard-00000.safetensors", "shard-0000.safetensors\n", "", 7, None],
)  # fmt: skip
def test_an_index_that_names_a_path_is_refused_and_nothing_outside_is_touched(tmp_path, name):
    folder = tmp_path / "store"
    write(folder)
    for outside in ("outside.safetensors", "shard-0000.safetensors"):
        (tmp_path / outside).write_text("mine")
    change_index(folder, file=name)
    before = contents(folder)
    for use in (Shards, write):
        with pytest.raises(UserError, match="is not an index"):
            use(folder)
    assert contents(folder) == before
    assert (tmp_path / "outside.safetensors").read_text() == "mine"
    assert (tmp_path / "shard-0000.safetensors").read_text() == "mine"


@pytest.mark.parametrize("length", [2**60, 2**40, 2**24 + 1, 2**24, 100_000])
def test_a_header_larger_than_the_file_is_refused_unread(tmp_path, length, monkeypatch):
    write(tmp_path, 1)
    path = tmp_path / "shard-0000.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    change_index(tmp_path, sha256=file_digest(path))
    monkeypatch.setattr("interp.shards.safe_open", None)
    with pytest.raises(UserError, match=f"shard-0000.*declares a header of {length}"):
        Shards(tmp_path)[KEY]


def test_shapes_that_do_not_fill_the_file_are_refused_whatever_the_index_says(tmp_path):
    write(tmp_path)
    path = tmp_path / "shard-0000.safetensors"
    change_index(tmp_path, rows=10**15)
    with pytest.raises(UserError, match="shard-0000.*holds .* bytes, not the"):
        Shards(tmp_path)[KEY]
    change_index(tmp_path, rows=50)
    Shards(tmp_path).verify()
    (first, x), (second, z) = matrices(0).items()
    for tensors in (
        {first: x.reshape(100, 3), second: z},  # as many bytes
        {first: x.view(torch.int32), second: z},
        {first: x, ("blocks.2.hook_resid_post", "-13:-8"): z},
    ):
        save_file({"@".join(key): v for key, v in tensors.items()}, path)
        change_index(tmp_path, sha256=file_digest(path))
        with pytest.raises(UserError, match="shard-0000.*holds other tensors"):
            Shards(tmp_path)[KEY]
    header = b'{"a":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}'
    numbers = bytes(50 * 10 * 4)
    path.write_bytes(len(header).to_bytes(8, "little") + header + numbers)
    change_index(tmp_path, sha256=file_digest(path))
    with pytest.raises(UserError, match="shard-0000.*no safetensors file"):
        Shards(tmp_path)[KEY]


@pytest.mark.parametrize(
    "fields",
    [{"schema": "whenlens.activations/9"}, {"dtype": "float8"}, {"dtype": []}, {"widths": {}},
     {"widths": {"a@b": 0}}, {"widths": {"a@b": 6.0}}, {"widths": {"a": 6}}, {"widths": 3},
     {"shards": 3}, {"shards": [[]]}, {"shards": [{}]}, {"rows": -1}, {"rows": 1.5},
     {"rows": True}, {"traces": "1"}, {"extra": 1}],
)  # fmt: skip
def test_an_index_without_meaning_is_one_sentence(tmp_path, fields):
    write(tmp_path)
    change_index(tmp_path, **fields)
    with pytest.raises(UserError, match="index.json' is not an index"):
        Shards(tmp_path)


def test_an_index_that_nests_without_end_or_is_absurdly_long_is_one_sentence(tmp_path):
    (tmp_path / "index.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a file that whenlens wrote"):
        Shards(tmp_path)
    with (tmp_path / "index.json").open("wb") as file:
        file.truncate(MAX_INDEX + 1)
    with pytest.raises(UserError, match="expected at most"):
        Shards(tmp_path)
    with pytest.raises(UserError, match="holds no activations"):
        Shards(tmp_path / "nowhere")


def test_shards_of_another_content_are_made_anew_and_what_was_longer_is_removed(tmp_path):
    write(tmp_path, 4)
    for name in ("shard-10000.safetensors", "shard-notes.safetensors"):
        (tmp_path / name).write_text("")
    writer = ShardWriter(tmp_path, "a model", WIDTHS, "float32")
    writer.append("text 0", 1, lambda: pytest.fail("it is there"))
    writer.append("other text", 1, lambda: matrices(7))
    assert Shards(tmp_path).n_traces == 2  # the rest belonged to what came before
    writer.finish()
    names = sorted(path.name for path in tmp_path.glob("shard-*"))
    assert names == ["shard-0000.safetensors", "shard-0001.safetensors", "shard-notes.safetensors"]
    assert torch.equal(Shards(tmp_path)[KEY], torch.cat([matrices(0)[KEY], matrices(7)[KEY]]))
    for other in ({"model": "another"}, {"dtype": "float16"}, {"widths": {KEY: 6}}):
        asked = {"model": "a model", "dtype": "float32", "widths": WIDTHS} | other
        ShardWriter(tmp_path, **asked)
        assert Shards(tmp_path).n_rows == 0
        write(tmp_path, 1)


@pytest.mark.parametrize("gone", [None, 0, 2])
@pytest.mark.parametrize("other", [None, 1, 3])
def test_what_is_missing_is_foretold(tmp_path, gone, other):
    write(tmp_path)
    if gone is not None:
        (tmp_path / f"shard-000{gone}.safetensors").unlink()
    keys = [f"text {n}" if n != other else "other text" for n in range(6)]
    writer, works = ShardWriter(tmp_path, "a model", WIDTHS, "float32"), []
    writer.append(keys[0], 1, lambda: matrices(0))
    foretold = writer.missing(keys[1:])
    for number, key in enumerate(keys[1:]):

        def work(number=number):
            works.append(number)
            return matrices(number)

        writer.append(key, 1, work)
    assert works == foretold and foretold[-2:] == [3, 4]


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match="Unknown dtype 'float8'.*bfloat16"):
        ShardWriter(tmp_path, "a model", WIDTHS, "float8")
    large = {key: x * 1e5 for key, x in matrices(0).items()}
    writer = ShardWriter(tmp_path, "a model", WIDTHS, "float16")
    with pytest.raises(UserError, match="which float16 cannot hold"):
        writer.append("text", 1, lambda: large)
    with pytest.raises(UserError, match="does not fit a store"):
        writer.append("text", 1, lambda: {key: x[:, :-1] for key, x in large.items()})
    assert not list(tmp_path.glob("shard-*"))
    with pytest.raises(UserError, match="No activations for blocks.9@first: this store holds"):
        next(Shards(tmp_path).batches(("blocks.9", "first")))


MEASURED = """
import sys
from pathlib import Path
import numpy as np, torch
from interp.shard_writer import ShardWriter
from interp.shards import Shards
from probes import StreamingLDA, StreamingLEACE
from tests.memory import peak_memory

n, folder = int(sys.argv[1]), Path(sys.argv[2])
keys = {(f"blocks.{layer}.hook_resid_post", "mean"): 128 for layer in range(4)}
labels = np.arange(n) % 3
before = peak_memory()
writer = ShardWriter(folder, "a model", keys, "bfloat16")
for begin in range(0, n, 500):
    writer.append(str(begin), 1, lambda: {key: torch.randn(500, d) for key, d in keys.items()})
writer.finish()
shards = Shards(folder)
for key in keys:
    fitters = StreamingLDA(128), StreamingLEACE(128)
    for at, x in shards.batches(key):
        for fitter in fitters:
            fitter.update(x, labels[at])
    fitters[0].direction(1), fitters[1].eraser(1)
assert fitters[0].n == n
print((peak_memory() - before) / 1024)
"""


def test_peak_memory_is_the_same_for_1_000_and_50_000_segments(tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MEASURED, str(n), str(tmp_path / str(n))],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for n in (1_000, 50_000)
    ]  # fmt: skip
    few, many = (float(process.communicate()[0]) for process in running)
    whole = 50_000 * 4 * 128 * 2 / 2**20  # MiB on disk, twice that in float32
    assert whole > 48 and many - few < whole / 6
