"""
The figures of a row of OpenAI's shape, without its answer: all that counting needs, read many times faster.

Only a row of which :func:`airflow_provider_portkey.answers.read_row` would tell the same is read here. Whatever is
unusual in any way is left to that function. Import this module when the first row has come: it loads a library.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import UNSET, Meta, MsgspecError, Struct, UnsetType
from msgspec.json import Decoder

# No value is of this type, so a row with such a member is left to the other reader: it has another shape.
_Absent: TypeAlias = Annotated[str, Meta(min_length=1, max_length=0)] | UnsetType
_Number: TypeAlias = int | None


class _Details(Struct):
    cached_tokens: _Number = None
    reasoning_tokens: _Number = None


_NO_DETAILS = _Details()


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: _Number = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens: _Absent = UNSET
    outputTokens: _Absent = UNSET
    input_tokens_details: _Absent = UNSET
    output_tokens_details: _Absent = UNSET
    cache_read_input_tokens: _Absent = UNSET
    cacheReadInputTokenCount: _Absent = UNSET


class _Body(Struct):
    model: Annotated[str, Meta(pattern=r"\A[!-~]{1,100}\Z")]
    usage: _Usage
    error: None = None
    generation_token_count: _Absent = UNSET
    results: _Absent = UNSET
    usageMetadata: _Absent = UNSET


class _Response(Struct):
    body: _Body
    status_code: Annotated[int, Meta(lt=400)] = 200


class _Row(Struct):
    custom_id: Annotated[str, Meta(min_length=1)]
    response: _Response
    error: None = None
    result: _Absent = UNSET
    modelOutput: _Absent = UNSET
    recordId: _Absent = UNSET
    errorCode: _Absent = UNSET
    predictions: _Absent = UNSET


_DECODER = Decoder(_Row)


class Figures(Struct):
    """
    What counting needs of an answer.

    :param tokens: the fields of :class:`~airflow_provider_portkey.answers.Usage`, in their order
    """

    custom_id: str
    model: str
    tokens: tuple[_Number, _Number, _Number, _Number]


def read_figures(row: bytes) -> Figures | None:
    """Return the figures of a row; ``None`` if it must be read as a whole."""
    try:
        decoded = _DECODER.decode(row)
    except (MsgspecError, ValueError, RecursionError):
        return None
    custom_id, body = decoded.custom_id, decoded.response.body
    if "\0" in custom_id:
        return None
    usage = body.usage
    cached = (usage.prompt_tokens_details or _NO_DETAILS).cached_tokens
    reasoning = (usage.completion_tokens_details or _NO_DETAILS).reasoning_tokens
    return Figures(custom_id, body.model, (usage.prompt_tokens, usage.completion_tokens, cached, reasoning))
