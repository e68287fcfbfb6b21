"""``/v1/embeddings``: the body, and how vectors are spelled.

The vectors are a decoder's states before its head, pooled over the prompt and brought to length 1.
`dimensions` keeps the first so many and brings them to length 1 again.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slipstream.errors import NumericError, RequestError
from slipstream.serve.openai import Strict
from slipstream.serve.openai_completion import Ids
from slipstream.serve.replies import Json

INPUTS_MAX = 2048  # OpenAI's

Vector = NDArray[np.float32]


class EmbeddingsRequest(Strict):
    """One vector for each input: a text or token ids. `pooling` is an extension."""

    model: str
    input: str | Ids | Annotated[list[str] | list[Ids], Field(min_length=1, max_length=INPUTS_MAX)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    pooling: Literal["mean", "last"] | None = None
    user: str | None = None

    def inputs(self) -> list[str | list[int]]:
        """One entry per vector."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return [*cast(list[str | list[int]], self.input)]

    def spelled(self, vector: Vector) -> list[float] | str:
        """`vector` [D] as asked for: cut, of length 1, as numbers or little-endian float32."""
        if self.dimensions is not None:
            if self.dimensions > len(vector):
                raise RequestError(
                    f"dimensions: this model's vectors have {len(vector)}, not {self.dimensions}"
                )
            vector = vector[: self.dimensions]
        unit = _unit(vector)
        if self.encoding_format == "base64":
            return base64.b64encode(unit.astype("<f4").tobytes()).decode()
        return [float(value) for value in unit]


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(length):
        raise NumericError("the embedding is not finite; the model's weights may be damaged")
    return vector if length == 0 else (vector / length).astype(np.float32)


def embeddings_object(model: str, vectors: Sequence[list[float] | str], tokens: int) -> Json:
    """The response."""
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
