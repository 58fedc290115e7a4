"""What `pip install .` brings: the command's code, its templates and the built-in pairs' weights."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from interp.pairs import BUILT_IN
from tests.commands.test_run import CODE

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else_of_the_tree(tmp_path):
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")[:-1]
    source = tmp_path / "source"  # a build leaves files behind
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("whenlens-*.whl")
    held = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert held == {n for n in tracked if n.split("/")[0] in ("interp", "probes", "figures")}
    for pair in BUILT_IN:
        for model in ("base", "thinking"):
            assert f"interp/organisms/weights/{pair}/{model}/model.safetensors" in held

    # What was unpacked elsewhere runs from another folder, and reads no file of this tree.
    unpacked, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(unpacked)
    elsewhere.mkdir()
    where = (
        "import interp.pairs\n"
        f"assert interp.__file__.startswith({str(unpacked)!r})\n"
        f"assert str(interp.pairs.weights_folder('countdown-rl')).startswith({str(unpacked)!r})\n"
    )
    code = CODE.replace("from interp.cli", f"{where}from interp.cli")
    assert where in code  # after the sizes are set, which these imports would fix
    arguments = (
        "run --pair countdown-rl --out run --n-report 10 --n-random 20 --behavior verification"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "run" / "report.html").is_file()
