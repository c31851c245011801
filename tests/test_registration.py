"""Registration with the Auto classes: whatever is imported first, and nothing heavy before it is needed."""

import subprocess
import sys

import pytest

LIGHT = "import mirasol, sys; assert not {'torch', 'transformers'} & set(sys.modules); "
KNOWN = "from transformers import AutoConfig; print(type(AutoConfig.for_model('mirasol')).__name__)"


@pytest.mark.parametrize(
    "program",
    [
        f"{LIGHT}{KNOWN}",
        f"from mirasol.chunks.text import pad_text; {KNOWN}",  # transformers comes while mirasol.auto's parts do
        f"import transformers; import mirasol; {KNOWN}",
    ],
)
@pytest.mark.slow
def test_importing_mirasol_is_enough_for_the_auto_classes_in_any_order(program):
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "MirasolConfig\n"


def test_a_command_that_needs_no_model_does_not_load_transformers():
    program = (
        "import sys; from mirasol.cli import main; main(['data', 'info', 'vggsound']); "
        "print('transformers' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("False\n")
