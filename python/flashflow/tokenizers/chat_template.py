"""Chat templates: Jinja programs that come with a model, so run in a sandbox, with bounds on size and time.

Jinja's immutable sandbox keeps a template from Python's internals and from changing what it is given. It does not
bound what a template computes; here the text it makes, the numbers it passes around and its running time are bounded.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame

from flashflow.errors import DataLossError, InvalidArgumentError, ResourceExhaustedError

__all__ = ["ChatTemplate"]

_MAX_TEMPLATE = 1 << 20  # characters
_MAX_SIZE = 1 << 22  # characters or items of anything that a template makes
_MAX_COUNT = 1 << 12  # whole numbers given to functions and filters, such as widths
_MAX_SECONDS = 5.0

Message = Mapping[str, Any]


class _RefusedError(Exception):
    """What the template itself says is wrong with the messages."""


class _TooMuchError(Exception):
    pass


class _Generator(CodeGenerator):
    """Compiles `a ~ b` with the environment's concat, which is bounded, instead of a bare join."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 (Jinja's name)
        self.write("environment.concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """What Jinja joins the pieces of the output, of blocks and of macros with."""
        pieces: list[str] = []
        size = 0
        for part in parts:
            size += len(part)
            _check_size(size)
            pieces.append(part)
        return "".join(pieces)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(value) for value in (left, right) if isinstance(value, str | list | tuple)]
        if operator == "+":
            _check_size(sum(sizes))
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "*" and sizes:
            _check_size(sizes[0] * max([1, *(value for value in (left, right) if isinstance(value, int))]))
        elif operator in ("*", "**") and any(isinstance(v, int) and abs(v) > 1 << 64 for v in (left, right)):
            raise _TooMuchError("a number above 2^64")
        elif operator == "**" and not abs(right) <= 64:
            raise _TooMuchError("an exponent above 64")
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        subject = getattr(function, "__self__", None)  # of a method
        name = getattr(function, "__name__", "")
        _check_call(name, [subject, *args] if isinstance(subject, str) else list(args), kwargs)
        return _check_result(super().call(context, function, *args, **kwargs))


def _check_size(size: int) -> None:
    if size > _MAX_SIZE:
        raise _TooMuchError(f"a value of {size} elements")


def _check_format(text: str) -> None:
    if re.search(r"\d{4}|\*", text):
        raise _TooMuchError(f"the format {text!r:.80}")


def _check_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuses calls of functions, methods and filters that would make too much. args[0] is what a method is of."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > _MAX_COUNT:
            raise _TooMuchError(f"the number {value} as an argument")
    texts = [value for value in args if isinstance(value, str)]
    if name in ("format", "format_map") and texts:
        _check_format(texts[0])
    elif name in ("replace", "do_replace") and len(texts) >= 3:
        _check_size(len(texts[0]) + texts[0].count(texts[1]) * len(texts[2]))
    elif name in ("join", "sync_do_join", "do_join"):
        items = next((value for value in args if isinstance(value, list | tuple)), ())
        separator = len(texts[0]) if texts else 0
        _check_size(sum(separator + (len(item) if isinstance(item, str) else 32) for item in items))
    elif name in ("expandtabs", "do_indent") and texts:
        widths = [value for value in (*args, *kwargs.values()) if isinstance(value, int)]
        _check_size(len(texts[0]) + (texts[0].count("\n") + texts[0].count("\t") + 1) * max([4, *widths]))


def _check_result(value: Any) -> Any:
    if isinstance(value, str | list | tuple | dict):
        _check_size(len(value))
    return value


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter with its arguments and result checked; keeps the marks that tell Jinja what to pass first."""

    def call(*args: Any, **kwargs: Any) -> Any:
        _check_call(function.__name__, args, kwargs)
        return _check_result(function(*args, **kwargs))

    call.__dict__.update(getattr(function, "__dict__", {}))
    return call


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """As transformers' tojson: plain JSON, without HTML's escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise(message: str) -> NoReturn:
    raise _RefusedError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


# Filters whose results may be much larger than their operands in ways that are not checked above, or not fixed.
_LEFT_OUT = (
    "batch",
    "center",
    "filesizeformat",
    "format",
    "pprint",
    "random",
    "slice",
    "urlize",
    "wordwrap",
    "xmlattr",
)


def _environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    for name in _LEFT_OUT:
        del environment.filters[name]
    environment.filters["tojson"] = _to_json
    environment.filters = {name: _bounded(function) for name, function in environment.filters.items()}
    environment.globals = {
        "range": jinja2.sandbox.safe_range,
        "namespace": jinja2.utils.Namespace,
        "dict": dict,
        "raise_exception": _raise,
        "strftime_now": _strftime_now,
    }
    return environment


class ChatTemplate:
    """A model's template for conversations.

    Args:
      source: the Jinja text.
      variables: what else the template may use, such as bos_token.

    Raises:
      DataLossError: the text is no Jinja template.
      ResourceExhaustedError: it is longer than 2^20 characters.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        if len(source) > _MAX_TEMPLATE:
            raise ResourceExhaustedError(
                f"the chat template has {len(source)} characters: at most {_MAX_TEMPLATE} are allowed",
                op="chat_template",
            )
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError) as error:
            raise DataLossError(f"the chat template is damaged: {error}", op="chat_template") from error
        self._variables = dict(variables)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation.

        Args:
          messages: {"role": ..., "content": text}, in order.
          add_generation_prompt: end with what makes the model answer.

        Raises:
          InvalidArgumentError: messages are malformed, or the template refuses them.
          ResourceExhaustedError: the template makes too much text or takes too long.
        """
        _check_messages(messages)
        try:
            return _with_deadline(
                lambda: self._template.render(
                    **self._variables, messages=list(messages), add_generation_prompt=add_generation_prompt
                )
            )
        except _RefusedError as error:
            raise InvalidArgumentError(f"the chat template refuses the messages: {error}", op="messages") from error
        except (_TooMuchError, MemoryError, OverflowError, RecursionError) as error:
            raise ResourceExhaustedError(f"the chat template makes too much: {error}", op="chat_template") from error
        except Exception as error:  # whatever the template's own expressions raise
            raise InvalidArgumentError(
                f"the chat template failed on these messages: {type(error).__name__}: {error}", op="chat_template"
            ) from error


def _check_messages(messages: Sequence[Message]) -> None:
    if not isinstance(messages, list | tuple) or not messages:
        raise InvalidArgumentError("messages must be a list of at least one message", op="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidArgumentError(f"message {index} must have a role", op="messages")
        if not isinstance(message.get("content"), str):
            raise InvalidArgumentError(f"the content of message {index} must be text", op="messages")


def _with_deadline(render: Callable[[], str]) -> str:
    """Calls render with this thread's line tracing on, which stops it when time is up, whatever loop it is in."""
    deadline = time.monotonic() + _MAX_SECONDS

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if time.monotonic() > deadline:
            raise _TooMuchError(f"a loop of more than {_MAX_SECONDS:g} seconds")
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        return render()
    finally:
        sys.settrace(previous)
