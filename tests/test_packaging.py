"""What `pip install .` brings: the command's code, its templates and the built-in pairs' weights."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from interp.pairs import BUILT_IN

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
