"""Export of a checkpoint with its code to a flat folder that transformers loads without this package.

Code on the Hub may import only files beside it, so all modules are written into one folder, with relative imports:
`mirasol.media.sound` becomes `media_sound.py`.
"""

import ast
import json
import shutil
import sys
from pathlib import Path

import mirasol
from mirasol.answer.checkpoint import folder_of
from mirasol.results import Result

SOURCE = Path(mirasol.__file__).parent
CHECKPOINT_FILES = {".json", ".safetensors", ".jinja", ".md", ".yaml"}
CLASSES = {
    "AutoConfig": "configuration_mirasol.MirasolConfig",
    "AutoModel": "modeling_mirasol.MirasolModel",
    "AutoModelForSeq2SeqLM": "modeling_mirasol.MirasolForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_mirasol.MirasolForConditionalGeneration",
}
PARTS = {
    "AutoProcessor": "processing_mirasol.MirasolProcessor",
    "AutoImageProcessor": "image_processing_mirasol.MirasolVideoProcessor",
    "AutoFeatureExtractor": "feature_extraction_mirasol.MirasolFeatureExtractor",
}
INNER = {"image_processor": "AutoImageProcessor", "feature_extractor": "AutoFeatureExtractor"}
ROOTS = ("mirasol.model.modeling_mirasol", "mirasol.chunks.processing_mirasol")


class FlatFolder(Result):
    """Result of an export: the folder, its code files and their requirements."""

    output: str
    code_files: list[str]
    requirements: list[str]

    def __str__(self) -> str:
        return (
            f"{self.output}: the checkpoint with {len(self.code_files)} files of code; needs transformers and "
            f"{', '.join(self.requirements)}\n"
            f'  AutoModelForMultimodalLM.from_pretrained("{self.output}", trust_remote_code=True)\n'
            f'  AutoProcessor.from_pretrained("{self.output}", trust_remote_code=True)'
        )


def write_flat_folder(checkpoint: str | Path | None, output: str | Path) -> FlatFolder:
    """Write the checkpoint (by default the shipped one) with its code into a new folder.

    The code has all features of the package's model and processor, including reading files.
    """
    checkpoint, output = folder_of(checkpoint), Path(output)
    for name in ("config.json", "processor_config.json"):
        if not (checkpoint / name).is_file():
            raise ValueError(
                f"Expected a Mirasol checkpoint with {name}, found none in {checkpoint}. Pass a folder that "
                "`mirasol train` or `mirasol init` wrote."
            )
    if output.exists():
        raise ValueError(f"Expected a new folder, found {output}, which exists. Choose another, or remove it.")
    texts, requirements = flat_modules()
    output.mkdir(parents=True)
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in CHECKPOINT_FILES:
            shutil.copyfile(path, output / path.name)
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    for name, classes in (("config.json", CLASSES), ("processor_config.json", PARTS)):
        values = json.loads((output / name).read_text(encoding="utf-8")) | {"auto_map": classes}
        for part, auto in INNER.items():
            if part in values:
                values[part]["auto_map"] = {auto: PARTS[auto]}
        (output / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return FlatFolder(output=str(output), code_files=sorted(texts), requirements=sorted(requirements))


def flat_modules() -> tuple[dict[str, str], set[str]]:
    """Return the source of every module that model and processor need, by flat file name, and their requirements."""
    texts: dict[str, str] = {}
    requirements: set[str] = set()
    waiting, seen = list(ROOTS), set(ROOTS)
    while waiting:
        module = waiting.pop()
        path = _path_of(module)
        assert path is not None, f"{module} is imported and has no file"
        lines = path.read_text(encoding="utf-8").splitlines()
        imports = [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.ImportFrom)]
        for node in sorted(imports, key=lambda node: node.lineno, reverse=True):
            target = f"{module.rpartition('.')[0]}.{node.module}" if node.level else str(node.module)
            if not target.startswith("mirasol."):
                continue
            statements, needed = _flat_import(target, node)
            lines[node.lineno - 1 : node.end_lineno] = [" " * node.col_offset + text for text in statements]
            waiting += [name for name in needed if name not in seen]
            seen.update(needed)
        text = "\n".join(lines) + "\n"
        texts[f"{_flat_name(module)}.py"] = text
        requirements |= _packages(text)
    return texts, requirements


def _flat_import(target: str, node: ast.ImportFrom) -> tuple[list[str], list[str]]:
    """Return equivalent imports from sibling files, and the modules that they need."""
    statements, needed, names = [], [], []
    for alias in node.names:
        if _path_of(f"{target}.{alias.name}") is None:
            names.append(alias.name + (f" as {alias.asname}" if alias.asname else ""))
            continue
        needed.append(f"{target}.{alias.name}")
        sibling = _flat_name(needed[-1])
        statements.append(f"from . import {sibling} as {alias.asname or alias.name}")
        # transformers copies only files that are imported in this form
        statements.append(f"from .{sibling} import __name__ as _{sibling}")
    if names:
        needed.append(target)
        statements.append(f"from .{_flat_name(target)} import {', '.join(names)}")
    return statements, needed


def _path_of(module: str) -> Path | None:
    base = SOURCE.joinpath(*module.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _flat_name(module: str) -> str:
    """Return the module's last part if it contains `mirasol`, else with its folder: `media_sound`."""
    last = module.rpartition(".")[2]
    return last if "mirasol" in last else "_".join(module.split(".")[1:])


def _packages(text: str) -> set[str]:
    """Return a module's top-level imports besides siblings, the standard library, torch and transformers."""
    nodes = ast.parse(text).body
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level and node.module]
    tops = {name.partition(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - {"torch", "transformers"}
