"""Model types, as in ``config.json``, to their families: one line a file."""

from __future__ import annotations

from bipft_compress.families import (
    albert,
    bert,
    deberta,
    distilbert,
    mobilebert,
    modernbert,
    mpnet,
    rotary,
    xmod,
)
from bipft_compress.families.family import Family

FAMILIES: dict[str, Family] = {
    **bert.FAMILIES,
    **distilbert.FAMILIES,
    **mpnet.FAMILIES,
    **albert.FAMILIES,
    **deberta.FAMILIES,
    **modernbert.FAMILIES,
    **mobilebert.FAMILIES,
    **rotary.FAMILIES,
    **xmod.FAMILIES,
}
