"""The flat folder answers without this package, with the same numbers."""

import ast
import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForMultimodalLM

from mirasol import DEFAULT_CHECKPOINT, MirasolProcessor
from mirasol.convert.flat_folder import _flat_import, write_flat_folder

QUESTION = "which color is named?"
WITHOUT_MIRASOL = """
import sys

sys.modules["mirasol"] = None  # importing it fails, as where it is not installed
import torch
from transformers import (
    AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoModelForMultimodalLM, AutoProcessor, pipeline
)

folder, clip, question, output = sys.argv[1:]
classes = (AutoConfig, AutoImageProcessor, AutoFeatureExtractor, AutoModel)
loaded = [auto.from_pretrained(folder, trust_remote_code=True) for auto in classes]
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text=question, videos=clip)
with torch.no_grad():
    logits = model(**inputs.to(model.dtype)).logits
ids = model.generate(**inputs.to(model.dtype), max_new_tokens=5)
pipe = pipeline("any-to-any", model=model, processor=processor)
said = pipe({"text": question, "videos": clip}, max_new_tokens=5, return_full_text=False)
model.save_pretrained(output + "_again")
processor.save_pretrained(output + "_again")
modules = {type(x).__module__.split(".")[0] for x in (*loaded, model, processor)}
torch.save({"inputs": dict(inputs), "logits": logits, "ids": ids, "said": said, "modules": modules}, output)
"""


# What transformers has announced to remove (pull requests 44394, 48113, 48115), or calls private.
WITHOUT_OLD_NAMES = """
import sys

import transformers
from transformers import processing_utils  # has read what it needs from the module below
from transformers import audio_utils, feature_extraction_utils
from transformers.utils import chat_template_utils

for module, name in (
    (audio_utils, "mel_filter_bank"), (audio_utils, "spectrogram"), (chat_template_utils, "_get_template_variables")
):
    delattr(module, name)
for name in ("transformers.utils.output_capturing", "transformers.feature_extraction_sequence_utils"):
    sys.modules[name] = None
transformers.SequenceFeatureExtractor = None
"""


def run_without_mirasol(folder, clip, output, before=""):
    environment = {**os.environ, "HF_MODULES_CACHE": str(output.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    arguments = [str(folder), clip, QUESTION, str(output)]
    result = subprocess.run(
        [sys.executable, "-I", "-c", before + WITHOUT_MIRASOL, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(output, weights_only=False)


@pytest.mark.slow
def test_flat_folder_survives_what_transformers_will_remove(tmp_path, grid_root):
    clip = str(grid_root / "clips" / "bbaf4p.mp4")
    write_flat_folder(None, tmp_path / "flat")
    found = run_without_mirasol(tmp_path / "flat", clip, tmp_path / "found.pt", WITHOUT_OLD_NAMES)
    assert "blue" in found["said"][0]["generated_text"]


@pytest.mark.slow
def test_flat_folder_answers_without_the_package(tmp_path, grid_root):
    clip = str(grid_root / "clips" / "bbaf4p.mp4")
    write_flat_folder(None, tmp_path / "flat")
    found = run_without_mirasol(tmp_path / "flat", clip, tmp_path / "found.pt")

    model = AutoModelForMultimodalLM.from_pretrained(DEFAULT_CHECKPOINT)
    processor = MirasolProcessor.from_pretrained(DEFAULT_CHECKPOINT)
    inputs = processor(text=QUESTION, videos=clip)
    with torch.no_grad():
        logits = model(**inputs.to(model.dtype)).logits
    assert found["modules"] == {"transformers_modules"}
    for name, value in inputs.items():
        assert torch.equal(found["inputs"][name], value), name
    assert torch.equal(found["logits"], logits)
    assert torch.equal(found["ids"], model.generate(**inputs.to(model.dtype), max_new_tokens=5))
    answer = processor.decode_answer(found["ids"][0], inputs["decoder_input_ids"].shape[1])
    assert answer in found["said"][0]["generated_text"]
    # saved again from there, the code goes along
    again = tmp_path / "found.pt_again"
    code = {path.name for path in (tmp_path / "flat").glob("*.py")}
    assert {path.name for path in again.glob("*.py")} == code
    assert json.loads((again / "config.json").read_text())["auto_map"]["AutoModel"] == "modeling_mirasol.MirasolModel"


def test_all_code_lies_side_by_side_and_names_no_package(tmp_path):
    written = write_flat_folder(None, tmp_path / "flat")

    assert not [path for path in (tmp_path / "flat").iterdir() if path.is_dir()]
    for name in written.code_files:
        text = (tmp_path / "flat" / name).read_text()
        assert "from mirasol" not in text and "import mirasol" not in text, name
    assert written.requirements == ["av", "einops", "huggingface_hub", "jaxtyping", "numpy", "soxr"]


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected a Mirasol checkpoint with config.json, found none in"):
        write_flat_folder(tmp_path, tmp_path / "flat")
    with pytest.raises(ValueError, match="Expected a new folder, found .* which exists"):
        write_flat_folder(None, tmp_path)


def test_a_renamed_import_keeps_its_new_name():
    (node,) = ast.parse("from mirasol.files import whole_folder as folder").body
    assert _flat_import("mirasol.files", node)[0] == ["from .files import whole_folder as folder"]
