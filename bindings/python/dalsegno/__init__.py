"""Dal Segno: local language models that never compute the same token twice.

    import dalsegno

    model = dalsegno.load("SmolLM2-135M-Instruct.Q4_1.gguf")
    print(model.generate([{"role": "user", "content": "Hello!"}], max_tokens=40).text)

docs/python.md is the tour.
"""

import numpy as _numpy  # here, not with the first array, which may be when somebody presses Ctrl-C

from . import constraints, errors, options
from ._dalsegno import (
    AuditReport,
    BatchGenerator,
    BatchResponse,
    Engine,
    Explanation,
    LoadedModel,
    LogprobCache,
    LogprobStats,
    MemoryReport,
    ModelRegistry,
    Pin,
    PromptCache,
    Reply,
    ReplyReport,
    Reuse,
    Session,
    Stream,
    Tokenizer,
    ToolRun,
    ToolsReply,
    Usage,
    __version__,
    cpu_levels,
    memory_report,
    numerics_version,
    release_all,
)
from ._model import Model, generate, load, stream_generate
from ._models import find_model, models_folder
from .errors import (
    CancelledError,
    CorruptError,
    DalSegnoError,
    ExhaustedError,
    InvalidArgumentError,
    IoError,
    NotFoundError,
    NumericError,
    UnsupportedError,
)

__all__ = [name for name in dir() if not name.startswith("_")] + ["__version__"]
