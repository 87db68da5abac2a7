"""Prose that comes with Python: the manuals of the language and of scikit-learn."""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Iterator

from bipft_compress.errors import CorpusError

_SHORTEST = 200  # characters
_HEADING = re.compile(r"^.*\n[ \t]*([-=*~^\"])\1{2,}[ \t]*$", re.MULTILINE)
_NOT_PROSE = re.compile(r"^\s*(?:>>>|\.\.\.|\.\. )|^\s*[\w*][\w*, ]* : |::=|::$")
_SENTENCE_END = re.compile(r"[.!?:][\"')`*]*$")


def builtin_documents() -> Iterator[str]:
    """Documents of at least 200 characters, in a fixed order.

    Raises:
        CorpusError: this Python comes without its manual.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise CorpusError(
            "This Python has no pydoc_data, so there is no built-in text; name a corpus of your "
            "own with --calibration or --corpus."
        ) from None
    # Several topics share one text.
    for text in dict.fromkeys([*topics.values(), *_sklearn_docstrings()]):
        document = _prose(text)
        if len(document) >= _SHORTEST:
            yield document


def _sklearn_docstrings() -> Iterator[str]:
    """Docstrings of the functions and classes in sklearn's public modules."""
    import sklearn

    for module in sorted(sklearn.__all__):
        try:
            with warnings.catch_warnings(action="ignore"):
                namespace = importlib.import_module(f"sklearn.{module}")
        except ImportError:  # a function of sklearn itself, not a module
            continue
        for name in sorted(getattr(namespace, "__all__", ())):
            # vars, not getattr: experimental names raise until they are enabled.
            entry = vars(namespace).get(name)
            if inspect.isclass(entry) or inspect.isfunction(entry):
                yield inspect.getdoc(entry) or ""


def _prose(text: str) -> str:
    """The paragraphs of a manual's text that are whole sentences, one a line."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", _HEADING.sub("\n", text)):
        lines = [line for line in block.splitlines() if not _NOT_PROSE.search(line)]
        paragraph = " ".join(" ".join(lines).split())
        letters = sum(character.isalpha() or character == " " for character in paragraph)
        in_words = len(paragraph.split()) >= 6 and letters >= 0.85 * len(paragraph)
        if in_words and _SENTENCE_END.search(paragraph):
            paragraphs.append(paragraph)
    return "\n".join(paragraphs)
