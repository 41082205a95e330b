"""What goes wrong, as exceptions. Each carries the sentence that the engine wrote."""

import re

# The engine's sentences name options as the command line does, and calls as C++ does.
_IN_PYTHON = {
    "--memory": "'memory'",
    "--context": "'context'",
    "--max-tokens": "'max_tokens'",
    "--kv": "'kv'",
    "--kv-group": "kv 'group_size'",
    "--kv-start": "kv 'start'",
    "--max-kv": "kv 'max_size'",
    "--keep": "kv 'keep'",
    "Session::create": "Session()",
}
_FOREIGN = re.compile("(?<![\\w-])(" + "|".join(map(re.escape, _IN_PYTHON)) + ")(?![\\w-])")


class DalSegnoError(Exception):
    """The base of all errors of this package. `code` is the engine's word for its kind."""

    code = ""


class InvalidArgumentError(DalSegnoError, ValueError):
    """The caller asked for something impossible."""

    code = "invalid_argument"


class NotFoundError(DalSegnoError, LookupError):
    """A file, model or key that is not there."""

    code = "not_found"


class CorruptError(DalSegnoError, ValueError):
    """Data that contradicts its format."""

    code = "corrupt"


class UnsupportedError(DalSegnoError):
    """Well-formed, but nothing here can run it."""

    code = "unsupported"


class ExhaustedError(DalSegnoError, MemoryError):
    """A budget, pool or limit is used up."""

    code = "exhausted"


class CancelledError(DalSegnoError):
    """The caller ended it."""

    code = "cancelled"


class NumericError(DalSegnoError, ArithmeticError):
    """NaN or infinity where a finite value is required."""

    code = "numeric"


class IoError(DalSegnoError, OSError):
    """The operating system refused."""

    code = "io"


_BY_CODE = {
    kind.code: kind
    for kind in (
        InvalidArgumentError,
        NotFoundError,
        CorruptError,
        UnsupportedError,
        ExhaustedError,
        CancelledError,
        NumericError,
        IoError,
    )
}


def of_code(code: str, message: str) -> DalSegnoError:
    """The exception for an error of the engine: the one place where codes become classes, and its words Python's."""
    return _BY_CODE[code](_FOREIGN.sub(lambda found: _IN_PYTHON[found[0]], message))
