"""Register Mirasol with transformers' Auto classes as soon as transformers itself is imported, and not before.

`import mirasol` must be enough for `AutoModel.from_pretrained`, but torch and transformers take 5 s to load and a
misspelt command should not wait for them: docs/decisions/0001-import-cost.md.
"""

import importlib.util
import sys
import threading
from importlib.abc import MetaPathFinder


class Registration(MetaPathFinder):
    """Import hook that imports `mirasol.auto` after the import that loaded transformers.

    Only the end of the outermost import counts, because `mirasol.auto` imports modules of Mirasol, one of which may be
    what is being imported.
    """

    def __init__(self) -> None:
        self.thread = threading.local()  # its `depth`: nested imports of Mirasol and transformers

    def find_spec(self, name, path=None, target=None):
        """Return the module's spec, whose loader calls back when the module has been executed."""
        if name != "transformers" and not name.startswith("mirasol."):
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader.exec_module = self._counted(spec.loader.exec_module)  # type: ignore[union-attr,method-assign]  # a hook
        return spec

    def _counted(self, execute):
        def exec_module(module):
            self.thread.depth = getattr(self.thread, "depth", 0) + 1
            try:
                execute(module)
            finally:
                self.thread.depth -= 1
            if not self.thread.depth and "transformers" in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                importlib.import_module("mirasol.auto")

        return exec_module


def register() -> None:
    """Register now if transformers is imported, else once it is."""
    if "transformers" in sys.modules:
        importlib.import_module("mirasol.auto")
    else:
        sys.meta_path.insert(0, Registration())
