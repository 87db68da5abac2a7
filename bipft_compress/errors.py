"""The faults a user can mend, each with one sentence that says what is wrong and what to do."""


class UserError(Exception):
    """Something outside this package is wrong: an argument, a file, a recipe, a checkpoint.

    The command line prints its message, without a traceback, and exits with code 2.
    """


class UnsupportedModelError(UserError):
    """The checkpoint's architecture cannot be made binary."""


class CheckpointError(UserError):
    """A model directory is missing, incomplete, truncated or tampered with."""


class RecipeError(UserError):
    """A recipe has an unknown key, a value out of range, or does not fit the model."""


class CorpusError(UserError):
    """The text is missing, empty, or not text."""


class OutputError(UserError):
    """The output directory exists, cannot be written, or the disk is full."""


class TrainingError(UserError):
    """Training cannot go on: a loss that is not a number, or nothing to resume from."""


PROGRAMMING_ERRORS = (NameError, AttributeError, TypeError, AssertionError)
"""What a mistake in a program raises: no fault of the user's, so it keeps its traceback."""


class Stopped(BaseException):
    """A person or the system asked the process to end; what is open is closed on the way out.

    No subclass of Exception: nothing may take it for a fault and go on.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.resumable = False
        """Whether a training was begun that ``--resume`` goes on with."""


def first_line(error: BaseException) -> str:
    """What another library says went wrong, short enough for a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def printable(text: str) -> str:
    """`text` as a terminal may show it: what would steer the terminal is spelt out."""
    return "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1]
        for character in text
    )
