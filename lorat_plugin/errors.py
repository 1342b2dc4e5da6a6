"""The errors that a user can mend: one sentence that names what is wrong and the remedy."""


class InputError(ValueError):
    """A user's input cannot be used. The command line prints the sentence and exits with code 2."""


class CheckpointError(InputError):
    """A weights file or a model id cannot be used."""


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line, for use inside a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
