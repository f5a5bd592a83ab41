"""Errors in one line."""


def in_words(error: BaseException) -> str:
    """The kind of the error and the first paragraph of its message, in one line."""
    message = str(error).strip().split("\n\n")[0]
    return " ".join(f"{type(error).__name__}: {message}".split())
