"""The error a user can mend."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line that says what is wrong, where, what was expected and what to do.
    The command line prints it and exits with code 2, without a traceback.
    """
