"""What every command shares: the application, its consoles, logging, and how faults end."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from bipft_compress.errors import Stopped, UserError, printable
from bipft_compress.processes import check_alone, is_main_process

app = typer.Typer(
    name="bipft-compress",
    help="Make a BERT-family checkpoint binary, train it on against its original, and report "
    "what was saved.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Brackets in a path or a record are no markup, and a number in it is no number.
console = Console(markup=False, highlight=False)
errors = Console(stderr=True, markup=False, highlight=False)


def _version(asked: bool) -> None:
    if asked:
        print(f"bipft-compress {version('bipft-compress')}")
        raise typer.Exit


_TOGETHER = ("compress", "pretrain", "finetune")
"""Commands that several processes can share."""


@app.callback()
def _options(
    context: typer.Context,
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    command = context.invoked_subcommand
    if command is not None and command not in _TOGETHER:
        check_alone(command)


def set_up(quiet: bool = False, to_stderr: bool = False) -> Console:
    """Logging for one command; the console that its progress bar may use.

    Of several processes the main one alone says what it does.
    """
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    shown = errors if to_stderr else console
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if shown.is_terminal and not quiet:
        handler = RichHandler(console=shown, show_path=False, show_level=False)
    logger = logging.getLogger("bipft_compress")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if is_main_process() else logging.WARNING)
    logger.propagate = False
    if not is_main_process():
        console.quiet = quiet = True
    return Console(quiet=True) if quiet else shown


def say(text: str, to: Console = console) -> None:
    """Print a line as it is, however long."""
    to.print(printable(text), soft_wrap=True)


_SIGNALS = {
    number: name
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if (number := getattr(signal, name, None)) is not None
}


@contextmanager
def _stoppable() -> Iterator[None]:
    """While it is open, a signal that ends a process raises `Stopped`; the second ends it at once.

    Click would take Ctrl-C for an abort of its own, and SIGTERM would leave everything open.
    """

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        # nohup, for one, asks that a signal is not heard.
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def guard(command: Callable[[], object]) -> None:
    """Run a command.

    Exits with code 0; 2 for faults a user can mend; 1 for faults of this package; for a signal, 128
    and its number.
    """
    try:
        with _stoppable():
            command()
    except UserError as error:
        if is_main_process():
            errors.print(f"Error: {printable(str(error))}", style="red", soft_wrap=True)
        else:
            _record(error)
        sys.exit(2)
    except Stopped as stop:
        if is_main_process():
            say(_stopped(stop, sys.argv), errors)
        sys.exit(128 + stop.number)
    except Exception as error:
        traceback.print_exc()
        say(
            f"This is a fault of bipft-compress ({type(error).__name__}); please report the lines "
            "above.",
            errors,
        )
        sys.exit(1)


def _record(error: UserError) -> None:
    """Leave a fault for the launcher, which shows that of the first process that failed."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)


_MODULES = {
    "__main__.py": "bipft-compress",
    "demo.py": "python -m bipft_compress.demo",
}
"""Files that Python runs, and the command that runs them."""


def _stopped(stop: Stopped, arguments: list[str]) -> str:
    """What a person is told, and the command that goes on."""
    name, *given = arguments
    program = _MODULES.get(Path(name).name, Path(name).name)
    if stop.resumable and given[:1] in (["pretrain"], ["finetune"]):
        kept = "What was trained is kept; go on with"
        given += [] if "--resume" in given else ["--resume"]
    elif stop.resumable or given[:1] == ["run"]:
        kept = "What is complete is kept; go on with"
    else:
        kept = "Nothing was changed; to start again"
    how = "Ctrl-C" if stop.number == signal.SIGINT else _SIGNALS[stop.number]
    return f"Stopped by {how}. {kept}:\n  {' '.join([program, shlex.join(given)]).strip()}"
