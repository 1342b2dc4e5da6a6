"""Errors that a user can correct: one sentence that names the cause and the remedy."""


class InputError(ValueError):
    """A user's input cannot be used. The command line prints the message and exits with code 2."""


class CheckpointError(InputError):
    """A weights file or a model id cannot be used."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error message, for use inside a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
