"""Models by name: GGUF files of the models folder."""

from __future__ import annotations

import os
import pathlib

from . import _arguments
from .errors import InvalidArgumentError, NotFoundError

_DEEPEST = 4  # folders below the models folder that are looked into


def models_folder() -> pathlib.Path:
    """$DALSEGNO_MODELS, or dalsegno/models in the XDG data folder."""
    if folder := os.environ.get("DALSEGNO_MODELS"):
        return pathlib.Path(folder)
    data = os.environ.get("XDG_DATA_HOME") or pathlib.Path.home() / ".local" / "share"
    return pathlib.Path(data) / "dalsegno" / "models"


def _models_in(folder: pathlib.Path) -> list[pathlib.Path]:
    found = []
    for parent, folders, files in os.walk(folder):
        below = pathlib.Path(parent).relative_to(folder)
        if len(below.parts) >= _DEEPEST:
            folders.clear()
        found += [pathlib.Path(parent) / name for name in files if name.lower().endswith(".gguf")]
    return sorted(found)


def find_model(name: str | os.PathLike) -> str:
    """The path of a GGUF file: `name` if it is one, or the file of the models folder whose name it is, or begins.

    Errors: NotFoundError, InvalidArgumentError (a folder, or several models begin so), TypeError (no path).
    """
    text = _arguments.path("path", name)
    if os.path.isfile(text):
        return text
    if os.path.isdir(text):
        raise InvalidArgumentError(f"{text} is a folder, not a GGUF file; give the path of a file")
    models = [] if os.sep in text or not text else _models_in(models_folder())
    wanted = text.lower()
    exact = [model for model in models if model.name.lower() in (wanted, wanted + ".gguf")]
    matches = exact or [model for model in models if model.name.lower().startswith(wanted)]
    if len(matches) == 1:
        return str(matches[0])
    names = ", ".join(model.name for model in (matches or models)[:12])
    if matches:
        raise InvalidArgumentError(f"'{text}' could be several models of {models_folder()}: {names}")
    raise NotFoundError(
        f"there is no model '{text}': no file of that path, and the models folder {models_folder()} holds "
        + (f"only {names}" if names else "no model")
    )
