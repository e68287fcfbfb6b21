"""Chat templates: from messages to the text of a prompt, exactly as `transformers` renders it.

A template is a Jinja text that travels with the model (``tokenizer_config.json``,
``chat_template.jinja``, GGUF's ``tokenizer.chat_template``). The server and `slipstream chat` call
`ChatTemplate.render`; whatever goes wrong in it is a `TemplateError` with the template's own words.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2

from slipstream.errors import TemplateError
from slipstream.models.chat_bounds import MAX_LENGTH
from slipstream.models.chat_sandbox import Budget, budget, environment

Message = Mapping[str, Any]


class ChatTemplate:
    """One compiled template.

    `variables` are the special tokens it may name (``bos_token``, ``eos_token`` …); `now` is the
    clock behind ``strftime_now``. A text that is no template is refused here.
    """

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.source = source
        self.variables = dict(variables or {})
        self._now = now
        try:
            self._template = environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the model's chat template cannot be parsed (line {error.lineno}): {error.message}"
            ) from error
        except (RecursionError, MemoryError, ValueError, TypeError) as error:
            raise TemplateError(f"the model's chat template cannot be compiled: {error}") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """The prompt for `messages` (each a mapping with at least ``role``).

        With `add_generation_prompt` it ends where the assistant's answer begins. `extra` reaches
        the template by name (``enable_thinking=False``).

            >>> ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}")
            ... .render([{"role": "user", "content": "hi"}])
            'user: hi\\n'
        """
        _check(messages)
        variables: dict[str, Any] = {
            **self.variables,
            "messages": [dict(message) for message in messages],
            "tools": [dict(tool) for tool in tools] if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **extra,
        }
        token = budget.set(Budget(self._now))
        try:
            return self._text(variables)
        except TemplateError:
            raise
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template fails on these messages: {error}") from error
        except Exception as error:  # a stranger's template may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise TemplateError(f"the chat template fails on these messages: {reason}") from error
        finally:
            budget.reset(token)

    def _text(self, variables: Mapping[str, Any]) -> str:
        pieces: list[str] = []
        length = 0
        for piece in self._template.generate(variables):
            length += len(piece)
            if length > MAX_LENGTH:
                raise TemplateError(f"the chat template writes more than {MAX_LENGTH} characters")
            pieces.append(piece)
        return "".join(pieces)


def _check(messages: Sequence[Message]) -> None:
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence) or not messages:
        raise TemplateError("messages must be a list with at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TemplateError(
                f"message {index} lacks a role: give 'user', 'assistant' or 'system'"
            )
