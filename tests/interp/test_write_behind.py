"""Shards written while the next is computed: the same bytes, and nothing goes wrong unheard."""

import errno
from threading import Event

import pytest
from safetensors.torch import save_file

from interp import Shards
from interp.shard_writer import ShardWriter
from tests.interp.test_shards import WIDTHS, contents, matrices, write


def test_a_shard_is_written_while_the_next_is_computed_and_only_one_waits(tmp_path, monkeypatch):
    write(tmp_path / "awaited")
    computing, apart = [Event() for _ in range(5)], []

    def slow_save(tensors, path, metadata):
        number = int(path.stem.removeprefix("shard-"))
        apart.append(computing[number + 1].wait(60))  # for ever, if the caller waited for this
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("interp.shard_writer.save_file", slow_save)
    writer = ShardWriter(tmp_path / "behind", "a model", WIDTHS, "float32")
    for number in range(4):

        def work(number=number):
            # What was before the one that is being written is on disk.
            assert Shards(tmp_path / "behind").n_traces >= number - 1
            computing[number].set()
            return matrices(number)

        writer.append_behind(f"text {number}", 1, work)
    computing[4].set()
    writer.finish()
    assert apart == [True] * 4
    assert contents(tmp_path / "behind") == contents(tmp_path / "awaited")


@pytest.mark.parametrize("broken", range(4))
def test_what_goes_wrong_on_disk_reaches_the_caller_and_the_index_names_whole_shards(
    tmp_path, monkeypatch, broken
):
    def full(tensors, path, metadata):
        save_file(tensors, path, metadata=metadata)
        if f"{broken:04d}" in path.name:
            path.write_bytes(path.read_bytes()[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    works: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr("interp.shard_writer.save_file", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "full", works=works, behind=True)
    assert works == list(range(min(broken + 2, 4)))  # no more than the one that was being computed
    assert Shards(tmp_path / "full").n_traces == broken
    Shards(tmp_path / "full").verify()
    works.clear()
    write(tmp_path / "full", works=works, behind=True)
    write(tmp_path / "whole")
    assert works == list(range(broken, 4))
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


@pytest.mark.parametrize("other", range(4))
def test_shards_of_another_content_leave_no_gap_where_they_are_written_behind(tmp_path, other):
    write(tmp_path)
    writer, works = ShardWriter(tmp_path, "a model", WIDTHS, "float32"), []
    for number in range(4):
        key = f"text {number}" if number != other else "other text"
        writer.append_behind(key, 1, lambda n=number: works.append(n) or matrices(n))
    writer.finish()
    assert works == list(range(other, 4)) and Shards(tmp_path).n_traces == 4
