"""A progress bar for prompts that take long: tqdm's, where it is installed."""

from __future__ import annotations

import sys

from ._arguments import told


class Bar:
    """Callable as on_prefill(done, total). wanted: True, False, or None (at a terminal). Nothing is shown of what takes
    less than half a second."""

    def __init__(self, wanted: bool | None = None, then=None):
        self._then = told(then)
        self._bar = None
        self._tqdm = None
        if wanted or (wanted is None and sys.stderr.isatty()):
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return
            self._tqdm = tqdm

    def __call__(self, done: int, total: int):
        if self._bar is None and self._tqdm is not None:
            self._bar = self._tqdm(total=total, unit="token", desc="prompt", delay=0.5, leave=False)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done >= total:
                self.close()
        return self._then(done, total) if self._then is not None else None

    def close(self):
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._tqdm = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
