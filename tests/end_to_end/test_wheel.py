"""The wheel, outside the checkout: it holds the package and its data, and works there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, repository]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (path,) = folder.glob("mirasol-*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_every_tracked_file_of_the_package_and_no_other_clip_or_bytecode(wheel, repository):
    listed = subprocess.run(
        ["git", "ls-files", "src/mirasol"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.split()
    expected = {name.removeprefix("src/") for name in listed}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("mirasol/")}
    assert expected <= packed
    samples = {"mirasol/starter/clips/helicopter.mp4", "mirasol/starter/clips/speech.mp4",
               "mirasol/serve/static/samples/red.mp4"}  # fmt: skip
    assert {name for name in packed if name.endswith((".mp4", ".pyc"))} == samples
    assert wheel.stat().st_size < 20e6


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(wheel, repository, tmp_path):
    """Unpacked into an empty folder and found first there: classes, registration and the command."""
    package = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(package)
    code = (
        "import mirasol, pathlib; from transformers import AutoConfig; from mirasol.cli import main\n"
        f"assert pathlib.Path(mirasol.__file__).is_relative_to({str(package)!r}), mirasol.__file__\n"
        "assert AutoConfig.for_model('mirasol').model_type == 'mirasol'\n"
        f"raise SystemExit(main(['info', {str(repository / 'data' / 'clips' / 'helicopter_noaudio.mp4')!r}]))"
    )
    environment = os.environ | {"PYTHONPATH": str(package)}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "seconds" in run.stdout
