"""What is at work within `with`, and can be stopped and started in between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

__all__ = ["AtWork"]


class AtWork(ABC):
    """Started when the `with` begins, stopped when it ends."""

    @abstractmethod
    def start(self) -> None:
        """Begin, and return when it can be used."""

    @abstractmethod
    def stop(self) -> None:
        """End."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
