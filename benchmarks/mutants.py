"""Mutants of artefacts: each is refused in a sentence, or is what it was."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from bipft_compress.checkpoint.record import RECORD, WEIGHTS
from bipft_compress.errors import UserError
from bipft_compress.loading.checksums import FINE_TUNED
from bipft_compress.training import lora
from bipft_compress.training.finetuned import read_classifier
from tests.sealing import reseal, seal

ODD: tuple[Any, ...] = (
    0, -1, 1, 7, 10**6, 10**12, 2**63, 1.5, float("nan"), "", "text", None, [], {}, [1], True,
)  # fmt: skip
"""What a JSON value becomes."""

LIMIT = 30
"""Seconds after which a load is said to hang."""

TEXT = "abc bcd cde def efg"
BATCH = 50

FAVOURITES = (RECORD, WEIGHTS, "config.json", FINE_TUNED, lora.WEIGHTS, lora.CONFIG)
"""Files that are changed twice as often as others."""


def measure(
    artefacts: list[Path], numbers: range, seed: int, folder: Path
) -> tuple[Counter[str], list[str]]:
    """Load mutants of these numbers, every second one with checksums that match.

    Returns:
        How many came to which end; and what was wrong, a line for each: another result with the
        checksums of the original, a traceback, a crash, or no end within `LIMIT` seconds.
    """
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    context = multiprocessing.get_context("fork")
    expected = {artefact: _results(artefact) for artefact in artefacts}
    for first in range(0, len(numbers), BATCH):
        receive, send = context.Pipe(duplex=False)
        batch = numbers[first : first + BATCH]
        arguments = (artefacts, batch, seed, folder, expected, send)
        # A crash ends a batch, not the measurement.
        process = context.Process(target=_batch, args=arguments)
        process.start()
        send.close()
        done = 0
        try:
            while True:
                end, line = receive.recv()
                done += 1
                ends[end] += 1
                wrong += [line] if line else []
        except EOFError:
            process.join()
        if done < len(batch):
            ends["crashed"] += 1
            wrong.append(f"mutant {batch[done]} of seed {seed}: exit code {process.exitcode}")
    return ends, wrong


def _batch(artefacts, numbers, seed, folder, expected, send) -> None:
    signal.signal(signal.SIGALRM, _hangs)
    for number in numbers:
        draw = random.Random(f"{seed},{number}")
        artefact = artefacts[number // 2 % len(artefacts)]
        mutant = folder / "mutant"
        shutil.rmtree(mutant, ignore_errors=True)
        shutil.copytree(artefact, mutant)
        try:
            what = _mutate(mutant, draw, sealed=bool(number % 2))
        except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError):
            what = "its files cannot be sealed again"
        where = f"mutant {number} of seed {seed}, {artefact.name}, {what}"
        signal.alarm(LIMIT)
        try:
            results = _results(mutant)
            same = all(torch.equal(a, b) for a, b in zip(results, expected[artefact], strict=True))
            end = "the same" if same else "another, of its own checksums"
            line = "" if same or number % 2 else f"{where}: loaded as another"
        except UserError as error:
            end, line = "refused", f"{where}: two lines" if "\n" in str(error) else ""
        except _HangError:
            end, line = "hangs", f"{where}: hangs"
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            end, line = "traceback", f"{where}: {error!r} in {Path(at.filename).name}:{at.lineno}"
        finally:
            signal.alarm(0)
        send.send((end, line))


class _HangError(BaseException):
    pass


def _hangs(*_: object) -> None:
    raise _HangError


def _results(directory: Path) -> list[torch.Tensor]:
    """Token ids of a text, and the hidden states or logits that they give."""
    read = read_classifier(directory)
    model, tokenizer = read.model, read.tokenizer
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    limit = model.get_input_embeddings().num_embeddings - 1
    with torch.no_grad():
        return [ids, model(ids.clamp(max=limit))[0]]


def _mutate(directory: Path, draw: random.Random, *, sealed: bool) -> str:
    names = sorted(path.name for path in directory.iterdir() if path.suffix != ".html")
    name = draw.choice([*names, *(name for name in FAVOURITES if name in names)])
    path = directory / name
    if path.suffix == ".json" and draw.random() < 0.6:
        values = json.loads(path.read_text())
        what = _mutate_json(values, draw)
        if name in (RECORD, FINE_TUNED) and sealed:
            seal(path, values)
            return f"{name}: {what}"
        path.write_text(json.dumps(values))
    else:
        data = bytearray(path.read_bytes())
        what = _mutate_bytes(data, draw)
        path.write_bytes(data)
    if sealed:
        reseal(directory)
    return f"{name}: {what}"


def _mutate_json(values: Any, draw: random.Random) -> str:
    """Change one value at any depth."""
    key = draw.choice(list(values) if isinstance(values, dict) else range(len(values)))
    inner = values[key]
    if isinstance(inner, dict | list) and inner and draw.random() < 0.8:
        return f"{key}.{_mutate_json(inner, draw)}"
    if draw.random() < 0.2:
        del values[key]
        return f"{key} removed"
    values[key] = draw.choice(ODD)
    return f"{key} = {values[key]!r}"


def _mutate_bytes(data: bytearray, draw: random.Random) -> str:
    at = draw.randrange(len(data) or 1)
    kind = draw.choice(["flip", "cut", "insert", "remove", "zero"])
    if kind == "flip":
        data[at] ^= draw.randrange(1, 256)
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = draw.randbytes(draw.randrange(1, 9))
    elif kind == "remove":
        del data[at : at + draw.randrange(1, 9)]
    else:
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    return f"{kind} at {at}"
