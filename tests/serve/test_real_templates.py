"""Real families' chat templates: tools and their results reach the prompt, answers are understood."""

from dataclasses import replace

import pytest
from fakes import ByteTokenizer

from slipstream.engine.request import SamplingParams
from slipstream.errors import SlipstreamError
from slipstream.models.chat import ChatTemplate
from slipstream.serve.dialect import dialect_of
from slipstream.serve.openai_chat import ChatRequest
from slipstream.serve.preparing import prepare

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ARGUMENTS = '{"city": "Oslo"}'
HERMES_CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
QWEN_CALL = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n"
    "</function>\n</tool_call>"
)
GLM_CALL = "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call>"
HARMONY_CALL = (
    f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{ARGUMENTS}"
)
FAMILIES = {
    "Qwen-Qwen3-0.6B": ("hermes", HERMES_CALL),
    "ibm-granite-granite-4.0": ("hermes", HERMES_CALL),
    "meta-llama-Llama-3.2-3B-Instruct": (
        "llama3",
        f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}',
    ),
    "mistralai-Mistral-Nemo-Instruct-2407": (
        "mistral",
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {ARGUMENTS}}}]',
    ),
    "Mistral-Small-3.2-24B-Instruct-2506": (
        "mistral-args",
        f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}",
    ),
    "unsloth-mistral-Devstral-Small-2507": (
        "mistral-args",
        f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}",
    ),
    "microsoft-Phi-3.5-mini-instruct": ("hermes", HERMES_CALL),
    "Qwen3-Coder": ("qwen3-coder", QWEN_CALL),
    "Qwen3.5-4B": ("qwen3-coder", QWEN_CALL),
    "GLM-4.7-Flash": ("glm", GLM_CALL),
    "openai-gpt-oss-120b": ("harmony", HARMONY_CALL),
}


@pytest.fixture
def template(shared_data):
    folder = shared_data / "vectors" / "vocabularies" / "templates"

    def read(name):
        path = folder / f"{name}.jinja"
        if not path.is_file():
            pytest.skip(f"{name} is absent")
        return path.read_text("utf-8")

    return read


def codec_of(source):
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    return ByteTokenizer(chat=ChatTemplate(source, variables))


def conversation(call_id):
    return ChatRequest.model_validate(
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": "Rain in Oslo?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": call_id,
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": ARGUMENTS},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": call_id, "content": "It pours."},
            ],
            "tools": [WEATHER],
        }
    ).conversation()


def thought(prompt):
    """What ends the reasoning that the prompt has begun."""
    return "</think>" if prompt.rstrip().endswith("<think>") else ""


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_s_whole_way(template, name):
    form, call = FAMILIES[name]
    codec = codec_of(template(name))
    dialect = dialect_of(codec)
    assert dialect.tools.name == form
    asked = conversation(dialect.tools.call_id())
    ready = prepare(codec, dialect, asked, SamplingParams())
    prompt = codec.decode(ready.prompt_ids)
    assert "The weather" in prompt and "It pours." in prompt
    assert prompt.count("city") >= 2 and prompt.count("Oslo") >= 2
    said = ready.new_splitter().whole(thought(prompt) + call)
    assert [(c.name, c.arguments) for c in said.calls] == [("get_weather", ARGUMENTS)]
    assert said.content == ""


def test_the_template_s_own_spelling_of_a_call_is_read_back(template):
    """What the template writes for an earlier call, the parser finds in an answer."""
    for name in FAMILIES:
        codec = codec_of(template(name))
        dialect = dialect_of(codec)
        ready = prepare(codec, dialect, conversation(dialect.tools.call_id()), SamplingParams())
        prompt = codec.decode(ready.prompt_ids)
        end = prompt.index("It pours.")
        begins = {"llama3": '{"name": "get', "harmony": " to=functions.get_weather"}
        begin = begins.get(dialect.tools.name, dialect.tools.syntax.opener)
        start = prompt.rindex(begin, 0, end)
        said = ready.new_splitter().whole(thought(prompt) + prompt[start:end])
        assert [call.name for call in said.calls] == ["get_weather"], (name, prompt[start:end])


@pytest.mark.parametrize(
    "name", ["ByteDance-Seed-OSS", "MiniMax-M2", "Kimi-K2-Instruct", "google-gemma-4-31B-it"]
)
def test_formats_that_are_not_ours_are_refused_in_words(template, name):
    codec = codec_of(template(name))
    with pytest.raises(SlipstreamError, match="--tool-format"):
        prepare(codec, dialect_of(codec), conversation("call_1"), SamplingParams())


def test_thinking_models_are_recognized(template):
    qwen = codec_of(template("Qwen-Qwen3-0.6B"))
    deepseek = codec_of(template("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"))
    asked = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    ).conversation()
    for codec, answer in (
        (qwen, "<think>\nhm\n</think>\n\nYes."),
        (deepseek, "hm\n</think>\n\nYes."),
    ):
        dialect = dialect_of(codec)
        extra = {"enable_thinking": True}
        on = prepare(codec, dialect, replace(asked, template=extra), SamplingParams())
        said = on.new_splitter().whole(answer)
        assert (said.reasoning, said.content) == ("hm", "Yes.")
        mute = replace(asked, template={"enable_thinking": False})
        off = prepare(codec, dialect, mute, SamplingParams())
        assert off.new_splitter().whole("Yes.").content == "Yes."
        assert len(off.prompt_ids) > len(on.prompt_ids)
