"""Registers what other libraries are told of this package, once they are imported themselves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def _register_quantizer() -> None:
    importlib.import_module("bipft_compress.quantizer")


def _refuse_merging() -> None:
    importlib.import_module("bipft_compress.adapters").refuse_merging()


def _refuse_reading_weights() -> None:
    importlib.import_module("bipft_compress.adapters").refuse_reading_weights()


METHOD = "bipft"
"""Name of our quantization method in transformers."""

_AFTER: dict[str, Callable[[], None]] = {
    "transformers.quantizers.auto": _register_quantizer,
    "peft.tuners.tuners_utils": _refuse_merging,
    "peft.tuners.lora.model": _refuse_reading_weights,
}
"""Module of another library to what is done as soon as it is there."""


def install() -> None:
    """Do now what can be done, and the rest when it can: to import this package stays cheap."""
    waiting = {}
    for name, then in _AFTER.items():
        if name in sys.modules:
            then()
        else:
            waiting[name] = then
    if waiting:
        sys.meta_path.insert(0, _After(waiting))


def autoload() -> None:
    """What torch calls as soon as it is imported: by then this package is too, and `install` ran.

    So that `AutoModel`, `SentenceTransformer` and `CrossEncoder` load a binary checkpoint in a
    program that never names this package. The entry point is meant for devices; no other is
    known to transformers or what lies on top of it.
    """


class _After(MetaPathFinder):
    """Finds modules as Python does, and has something done after they are imported.

    Args:
        waiting: see `_AFTER`.
    """

    def __init__(self, waiting: Mapping[str, Callable[[], None]]) -> None:
        self._waiting = dict(waiting)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        then = self._waiting.pop(fullname, None)
        if then is None:
            return None
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, then)
        return spec


class _Loader(Loader):
    """A loader that does something more in the end.

    Args:
        own: the module's loader.
        then: what is done.
    """

    def __init__(self, own: Any, then: Callable[[], None]) -> None:
        self._own, self._then = own, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._own.exec_module(module)
        assert module.__spec__ is not None
        module.__spec__.loader = self._own
        self._then()
