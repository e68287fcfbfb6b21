"""Models that say what a test wants, behind chat templates like those of real families."""

import numpy as np
from fakes import ByteTokenizer, FakeProgram, fake_engine

from slipstream.models.chat import ChatTemplate

READY = "\x01"  # ends every prompt: what follows is the answer

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}\x01{% endif %}"
)
HERMES = (
    "{% if tools %}tools: {{ tools | tojson }}\nanswer <tool_call></tool_call>\n{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}\n"
    "{% endfor %}\x01"
)
LLAMA3 = (
    "<|start_header_id|>{% if tools %}"
    '{{ \'{"name": , "parameters": }\' }}{{ tools | tojson }}{% endif %}'
    "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}\x01"
)
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}[TOOL_CALLS]"
    "{% if c.id | length != 9 %}{{ raise_exception('ids have 9 letters') }}{% endif %}"
    "{% endfor %}{% endfor %}\x01"
)
QWEN3 = (
    "{% for m in messages %}<{{ m.role }}>{{ (m.content or '').split('</think>')[-1] }}\n"
    "{% endfor %}\x01{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n\x01{% endif %}"
)
OPENED = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}\x01<think>\n"


def says(script):
    """An answerer: whatever is asked, it writes `script` and ends."""
    text = script.encode()

    def answer(ids):
        marks = [i for i, token in enumerate(ids) if token in (1, 257)]
        said = len(ids) - 1 - (marks[-1] if marks else len(ids) - 1)
        logits = np.zeros(258, np.float32)
        logits[text[said] if said < len(text) else 256] = 40
        return logits

    return answer


class Tokenizer(ByteTokenizer):
    """Bytes, and a template."""

    def __init__(self, template, **more):
        super().__init__(chat=ChatTemplate(template), vocabulary_size=258, **more)


def speaker(script, template=HERMES, **more):
    """An engine whose model says `script` after a prompt that `template` writes."""
    more.setdefault("context", 4096)
    more.setdefault("tokenizer", Tokenizer(template))
    return fake_engine(FakeProgram(258, says(script)), **more)
