"""Chat templates render as transformers renders them, and cannot harm the process that does it."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from slipstream.errors import TemplateError
from slipstream.models.chat import ChatTemplate

HELLO = [{"role": "user", "content": "Hello <b>&"}]
CONVERSATIONS = [
    HELLO,
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hey!\n"},
        {"role": "user", "content": "2+2? é"},
    ],
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a <place>",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "description": "é"}},
            "required": ["a"],
        },
    },
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def outcome(render: Any) -> str | None:
    """The text, or None where the template refuses the conversation."""
    try:
        return render()
    except Exception:
        return None


@pytest.mark.slow
def test_templates_of_42_models_render_as_in_transformers(shared_data: Path) -> None:
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    paths = sorted((shared_data / "vectors" / "vocabularies" / "templates").glob("*.jinja"))
    assert len(paths) >= 40
    rendered = 0
    for path in paths:
        source = path.read_text("utf-8")
        for messages in CONVERSATIONS:
            for tools in (None, [TOOL]):
                for prompt in (True, False):
                    ours = outcome(
                        lambda: ChatTemplate(source, SPECIAL).render(
                            messages, tools=tools, add_generation_prompt=prompt
                        )
                    )
                    theirs = outcome(
                        lambda: utilities.render_jinja_template(
                            [messages],
                            chat_template=source,
                            tools=tools,
                            add_generation_prompt=prompt,
                            **SPECIAL,
                        )[0][0]
                    )
                    assert ours == theirs, path.name
                    rendered += ours is not None
    assert rendered > 7 * len(paths)


def test_every_real_template_renders_within_its_bounds(shared_data: Path) -> None:
    done = 0
    for path in (shared_data / "vectors" / "vocabularies" / "templates").glob("*.jinja"):
        template = ChatTemplate(path.read_text("utf-8"), SPECIAL)
        done += outcome(lambda: template.render(CONVERSATIONS[1] * 20)) is not None
    assert done >= 25


def render(source: str, **extra: Any) -> str:
    return ChatTemplate(source, SPECIAL).render(HELLO, **extra)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0]['content'] }}", "Hello <b>&"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hello <b>&"}'),
        ("{{ ['é'] | tojson(indent=1) }}", '[\n "é"\n]'),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),  # blocks leave no blanks
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        (
            "{% for i in [1, 2] %}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}",
            "1/2False 2/2True ",
        ),
        ("{% generation %}{% set x = 1 %}a{% endgeneration %}{{ x is defined }}", "aFalse"),
        ("{% set n = namespace(x=1) %}{% set n.x = n.x + 1 %}{{ n.x }}", "2"),
        ("{{ 'a' ~ 1 ~ none }}{{ 'b' * 3 }}{{ '%03d' % 7 }}", "a1Nonebbb007"),
        (
            "{{ ['a', 'b'] | join('-') }}{{ 'aXbX'.replace('X', '!') }}{{ ' x '.strip() }}",
            "a-ba!b!x",
        ),
        ("{{ add_generation_prompt }}{{ tools is none }}{{ documents is none }}", "TrueTrueTrue"),
        ("{{ absent }}|{{ absent is defined }}", "|False"),
        ("{{ enable_thinking }}", "False"),
        ("{%- macro m(x) %}[{{ x }}]{% endmacro %}{{ m(1) }}{{ m(2) }}", "[1][2]"),
    ],
)
def test_what_templates_rely_on_works(source: str, text: str) -> None:
    assert render(source, enable_thinking=False) == text


def test_the_clock_is_an_argument() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2024, 7, 26))
    assert template.render(HELLO) == "26 Jul 2024"


def test_a_refusal_is_in_the_words_of_the_template() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    ["{% for %}", "{{ x", "{% endif %}", "{% include 'x' %}{{", "{{ 1 + }}", "{% unknown %}"],
)
def test_what_is_no_template_is_refused_at_once(source: str) -> None:
    with pytest.raises(TemplateError, match=r"line \d"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ ''['__class__'] }}{{ (''|attr('__class__')).mro() }}",
        "{% include 'chat.py' %}",
        "{% import 'os' as os %}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content.absent.more }}",
        "{{ [] | first | tojson }}{{ cycler | tojson }}",
    ],
)
def test_what_fails_or_reaches_out_is_one_typed_error(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


BOMBS = [
    "{{ 'a' * 1000000000000 }}",
    "{{ [1] * 1000000000 }}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{{ 2 ** 100000000 }}",
    "{% for i in range(1000000000) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x.replace('a', 'aaaa') %}{% endfor %}",
    "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x | replace('a', 'aaaa') %}{% endfor %}",
    "{% set n = namespace(x=['aa']) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set x = 'a' * 9999999 %}{{ [x] * 99999 | join(x) }}",
    "{% set x = 'a' * 9999999 %}{% set l = [x] * 99999 %}{{ l | join(x) }}",
    "{% set x = 'a' * 9999999 %}{% set l = [x] * 99999 %}{{ x.join(l) }}",
    "{{ 'a'.ljust(1000000000000) }}",
    "{{ 'a' | center(1000000000000) }}",
    "{{ 'a'.zfill(5000000000) }}",
    "{{ '%5000000000d' % 1 }}",
    "{{ '{:>5000000000}'.format(1) }}",
    "{{ '%5000000000d' | format(1) }}",
    "{{ '{:>{w}}'.format(1, w=5000000000) }}",
    "{{ 'a\\nb' | indent(5000000000) }}",
    "{{ ('\\t' * 1000000).expandtabs(1000000) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | string }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = {'a': n.x, 'b': n.x} %}{% endfor %}{{ '%s' % [n.x] }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ 'a' ~ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ '{}'.format(n.x) }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ ','.join([n.x]) }}{{ [n.x] | join }}",
    "{{ range(99999) | list | slice(5000000000) | list }}",
    "{{ lipsum(100000) }}",
    "{{ 'x' | wordwrap(1, wrapstring='y' * 9999999) }}{{ ('x ' * 99999) | wordwrap(1, wrapstring='y' * 9999999) }}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_a_bomb_is_stopped_in_time(source: str) -> None:
    start = time.perf_counter()
    with pytest.raises(TemplateError):
        render(source)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    "messages", [[], "hello", [1], [{"content": "x"}], [{"role": 3}], None, {"role": "user"}]
)
def test_messages_are_checked_at_the_border(messages: Any) -> None:
    with pytest.raises(TemplateError, match="message"):
        ChatTemplate("{{ 1 }}").render(messages)


def test_a_rendering_leaves_the_messages_alone() -> None:
    messages = [{"role": "user", "content": "x"}]
    before = json.dumps(messages)
    ChatTemplate("{% for m in messages %}{% set m = 3 %}{% endfor %}").render(messages)
    assert json.dumps(messages) == before
