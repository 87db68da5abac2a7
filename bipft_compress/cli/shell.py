"""What every command shares: the application, its consoles, logging, and how faults end."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable

import typer
from rich.console import Console
from rich.logging import RichHandler

from bipft_compress.errors import UserError

app = typer.Typer(
    name="bipft-compress",
    help="Make a BERT-family checkpoint binary, train it on against its original, and report "
    "what was saved.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console()
errors = Console(stderr=True)


def set_up(quiet: bool = False, to_stderr: bool = False) -> Console:
    """Logging for one command; the console that its progress bar may use."""
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
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return Console(quiet=True) if quiet else shown


def guard(command: Callable[[], object]) -> None:
    """Run a command; exit code 0, 2 for faults a user can mend, 1 for faults of this package."""
    try:
        command()
    except UserError as error:
        errors.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("Stopped. Training goes on with --resume.")
        sys.exit(130)
    except Exception as error:
        traceback.print_exc()
        errors.print(
            f"This is a fault of bipft-compress ({type(error).__name__}); please report the lines "
            "above.",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(1)
