"""The error of the local stack, which says what happened and how to fix it."""


class StackError(Exception):
    """The stack cannot start or continue; the text has the cause, the end of the log, and what to do."""

    def __init__(self, happened: str, fix: str, log: str = "") -> None:
        self.happened, self.fix, self.log = happened, fix, log
        said = f"\n{log.rstrip()}\n" if log.strip() else " "
        super().__init__(f"{happened}{said}{fix}")
