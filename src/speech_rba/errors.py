"""The error that a user can correct."""


class UserError(ValueError):
    """Its message says what is wrong, what is allowed and what to do; commands print it on stderr.

    Any other exception is a fault of this project or of a library and shows its traceback.
    """
