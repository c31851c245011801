"""The common test suites of the installed transformers, as the package `transformers_tests`.

They come with its source distribution, which is downloaded once into `.cache/` and never stored in this repository.
"""

import subprocess
import sys
import tarfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import transformers

CACHE = Path(__file__).resolve().parents[2] / ".cache"
FOLDER = CACHE / f"transformers-{transformers.__version__}" / "tests"
PACKAGE = "transformers_tests"


def fetch() -> Path:
    """The folder of the suites; downloaded when it is not there yet."""
    if not FOLDER.is_dir():
        CACHE.mkdir(exist_ok=True)
        name = f"transformers=={transformers.__version__}"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
        subprocess.run([*pip, "--no-build-isolation", "--no-binary", ":all:", name, "-d", CACHE], check=True)
        with tarfile.open(FOLDER.parent.with_name(FOLDER.parent.name + ".tar.gz")) as archive:
            archive.extractall(CACHE, filter="data")
    return FOLDER


def _module(name: str, **values) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(values)
    sys.modules[name] = module


def install() -> None:
    """Makes the suites importable, with empty stand-ins for the modules that the source distribution leaves out."""
    if PACKAGE in sys.modules:
        return
    _module(PACKAGE, __path__=[str(fetch())])
    for name in ("exporters", "generation", "utils"):
        _module(f"{PACKAGE}.{name}", __path__=[])
    _module(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    _module(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    _module(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs={})
    _module("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)


install()
