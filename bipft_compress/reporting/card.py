"""The model card of a packed artefact: ``README.md`` in the hub's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from bipft_compress.reporting import units
from bipft_compress.reporting.counted import memory_section, operations_section
from bipft_compress.reporting.markdown import render_sections
from bipft_compress.reporting.measured import quality_section
from bipft_compress.reporting.schema import Report
from bipft_compress.reporting.sections import summary_section

_TAGS = ["bipft-compress", "quantized", "1-bit"]

_TASKS = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
"""End of a class's name to the hub's name of what it does; of any other: feature-extraction."""

_SENTENCE = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({name})
embeddings = model.encode(["The weather is lovely today.", "It is so sunny outside!"])
print(model.similarity(embeddings, embeddings))
"""

_TRANSFORMERS = """\
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name})
model = {auto}.from_pretrained({name})
outputs = model(**tokenizer("The weather is lovely today.", return_tensors="pt"))
"""


def render_card(
    report: Report,
    name: str,
    *,
    base_model: tuple[str, str | None] | None,
    original: Mapping[str, Any],
    pooled: bool,
) -> str:
    """The card: what the hub reads of it, how to use the model, and the report's tables.

    Args:
        report: of the artefact.
        name: of the artefact; the directory's, until it is published under another.
        base_model: the original's name on the hub and its revision, None for the newest; None for
            an original that is not there.
        original: what its own card says; see `loading.read_card`.
        pooled: whether sentence-transformers reads it.
    """
    suffix = next((end for end in _TASKS if report.model.architecture.endswith(end)), "")
    task = "sentence-similarity" if pooled else _TASKS.get(suffix, "feature-extraction")
    library = "sentence-transformers" if pooled else "transformers"
    data = ModelCardData(
        base_model=base_model[0] if base_model else None,
        base_model_relation="quantized" if base_model else None,
        library_name=library,
        tags=[*_TAGS, *([library, "feature-extraction"] if pooled else [])],
        **{"pipeline_tag": task, **original},
    )
    auto = f"AutoModel{suffix}"
    usage = (_SENTENCE if pooled else _TRANSFORMERS).format(name=json.dumps(name), auto=auto)
    parts = [summary_section(report), operations_section(report), memory_section(report)]
    if report.quality:
        parts.append(quality_section(report))
    tables = render_sections("", parts).partition("\n\n")[2]
    return f"""---
{data.to_yaml()}
---

# {name}

{_made_of(report, base_model)}

## Use

```
pip install bipft-compress {library}
```

```python
{usage}```

`bipft-compress` has to be installed, not imported. The model runs on its bits, on a CPU, and cannot
be trained; `report.html` beside it says all that was counted and measured.

{tables}"""


def _made_of(report: Report, base_model: tuple[str, str | None] | None) -> str:
    named = report.model.checkpoint or report.model.architecture
    if base_model is not None:
        name, revision = base_model
        # The hub takes no revision in `base_model`.
        tree = "" if revision is None else f"/tree/{revision}"
        named = f"[{named}](https://huggingface.co/{name}{tree})"
    return (
        f"{named} with binary linear layers and attention, by the recipe "
        f"`{report.recipe.get('name')}` of bipft-compress: "
        f"{units.ratio(report.memory.ratio)} smaller, with "
        f"{units.ratio(report.operations.ratio)} fewer operations."
    )
