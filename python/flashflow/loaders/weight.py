"""A weight that is read when it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flashflow.errors import DataLossError

__all__ = ["LazyWeight", "WeightDType"]

WeightDType = Literal["f32", "f16", "bf16"]

_NUMPY_DTYPES: dict[str, type[np.generic]] = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


@dataclass(frozen=True)
class LazyWeight:
    """One tensor of a model file.

    Attributes:
      source: the tensor's name in its file, for messages.
      shape: dimensions, row-major.
      dtype: element type of what read() returns; bf16 comes as its bits in uint16.
      load: makes the array, of this shape and dtype.
    """

    source: str
    shape: tuple[int, ...]
    dtype: WeightDType
    load: Callable[[], npt.NDArray[Any]] = dataclasses.field(repr=False)

    def read(self) -> npt.NDArray[Any]:
        """The array, contiguous and aligned.

        Raises:
          DataLossError: it holds an infinity or a NaN, as no trained weight does.
        """
        array = np.require(self.load(), requirements=["C", "A"])
        if array.shape != self.shape or array.dtype != _NUMPY_DTYPES[self.dtype]:
            raise DataLossError(f"tensor {self.source!r} reads as {array.dtype} {array.shape}", op=self.source)
        finite = (array & 0x7F80) != 0x7F80 if self.dtype == "bf16" else np.isfinite(array)
        if not finite.all():
            raise DataLossError(
                f"tensor {self.source!r} has {finite.size - np.count_nonzero(finite)} values that are not finite",
                op=self.source,
                hint="the file is damaged: fetch it again",
            )
        return array

    def transposed(self) -> LazyWeight:
        """The matrix with rows and columns swapped."""
        return dataclasses.replace(self, shape=self.shape[::-1], load=lambda: self.load().T)

    def with_interleaved_halves_split(self, n_heads: int) -> LazyWeight:
        """Rows of each head reordered from (0, n/2, 1, n/2 + 1, ...) to 0, 1, 2, ...

        GGUF's "llama" files store the rows of Q and K so that rotary pairs are neighbors; our modules, like Hugging
        Face's, pair row i with row i + head_dim / 2.
        """

        def load() -> npt.NDArray[Any]:
            array = self.load()
            heads = array.reshape(n_heads, array.shape[0] // n_heads // 2, 2, *array.shape[1:])
            return heads.swapaxes(1, 2).reshape(array.shape)

        return dataclasses.replace(self, load=load)
