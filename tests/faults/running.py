"""Runs any code as a program."""


def main(code: str) -> None:
    exec(code, {"__name__": "__main__"})
