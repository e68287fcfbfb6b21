"""Structured output: whatever the logits say, what comes out is of the grammar, or refused in words."""

import json
import re
import threading

import jsonschema
import numpy as np
import pytest
from fakes import ByteTokenizer, FakeProgram, fake_engine
from grammar_cases import CASES, INVALID
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.engine.grammar import Grammar
from slipstream.engine.grammar_compile import GrammarCompiler
from slipstream.engine.grammar_masks import GrammarState
from slipstream.engine.request import SamplingParams
from slipstream.errors import RequestError

VOCABULARY = 257
UNSERVED = {"uniqueItems", "not", "if, then, else", "dependentRequired"}


def any_logits(ids):
    """Logits that depend on all ids, with some liking for whatever ends something."""
    logits = np.random.default_rng(ids).normal(size=VOCABULARY).astype(np.float32) * 3
    logits[[*b'"}]', 256]] += 3
    return logits


@pytest.fixture(scope="module")
def engine():
    return fake_engine(FakeProgram(VOCABULARY, any_logits), context=4096)


@pytest.fixture(scope="module")
def compiler():
    return GrammarCompiler(ByteTokenizer(), VOCABULARY)


def answers(engine, kind, source, count=1, **more):
    params = SamplingParams(grammar=Grammar(kind, source), **{"max_tokens": 1500, **more})
    params_of = [SamplingParams(**{**vars(params), "seed": seed}) for seed in range(count)]
    streams = [engine.stream("Go>", one) for one in params_of]
    texts = []
    for stream in streams:
        deltas = list(stream)
        if deltas[-1].finish == "stop":
            texts.append("".join(delta.text for delta in deltas))
    engine.check()
    return texts


def allows(compiler, schema, text):
    """Whether an answer may be `text`, and end there."""
    state = GrammarState(compiler.compile(Grammar("json_schema", json.dumps(schema))))
    data = [*text.encode(), 256]
    masks = (np.unpackbits(state.bits(data[:i]), bitorder="little") for i in range(len(data)))
    return all(mask[token] for mask, token in zip(masks, data, strict=False))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_schema_allows_what_fits_and_nothing_else(compiler, case):
    if case.name in UNSERVED:
        with pytest.raises(RequestError, match="Unimplemented keys"):
            allows(compiler, case.schema, "1")
        return
    for text in case.accepted:
        jsonschema.validate(json.loads(text), case.schema)
        assert allows(compiler, case.schema, text), text
    for text in case.refused:
        assert not allows(compiler, case.schema, text), text


@pytest.mark.parametrize(("name", "source"), INVALID, ids=[name for name, _ in INVALID])
def test_a_schema_that_is_none_is_refused_in_words(engine, name, source):
    with pytest.raises(RequestError, match=r"grammar: .{20}"):
        engine.request("Go", SamplingParams(grammar=Grammar("json_schema", source)))


@pytest.mark.parametrize(
    ("kind", "source", "told"),
    [
        ("regex", "a(b", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("choice", "[]", "at least one string"),
        ("choice", '["a", 1]', "every choice must be a string"),
        ("choice", "a, b", "JSON list"),
        ("ebnf", "root ::= foo", "foo"),
        ("ebnf", "start: foo", "foo"),
        ("ebnf", "%%%", "Expected name"),
    ],
)
def test_other_grammars_that_are_none_are_refused_in_words(engine, kind, source, told):
    with pytest.raises(RequestError, match=told):
        engine.request("Go", SamplingParams(grammar=Grammar(kind, source)))


scalars = st.sampled_from(
    [
        {"type": "integer"},
        {"type": "integer", "minimum": -5, "maximum": 500},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "string", "maxLength": 12},
        {"type": "string", "pattern": "^[a-z]{1,4}\\d?$"},
        {"type": "string", "format": "date"},
        {"enum": ["red", "grün", 7, None]},
        {"const": '\u2028 \\ "'},
    ]
)


def composite(inner):
    names = st.sampled_from(["a", "b c", "größe", 'd"e', "f"])
    records = st.dictionaries(names, inner, max_size=3).flatmap(
        lambda fields: st.builds(
            lambda needed: {
                "type": "object",
                "properties": fields,
                "required": [name for name in fields if name in needed],
                "additionalProperties": False,
            },
            st.sets(names),
        )
    )
    arrays = st.builds(
        lambda item, low: {"type": "array", "items": item, "minItems": low, "maxItems": low + 2},
        inner,
        st.integers(0, 2),
    )
    return records | arrays | st.builds(lambda *two: {"anyOf": list(two)}, inner, inner)


@settings(max_examples=40, deadline=None)
@given(st.recursive(scalars, composite, max_leaves=5), st.sampled_from([0.0, 1.0]))
def test_random_logits_under_a_random_schema_give_valid_json(engine, schema, temperature):
    for text in answers(engine, "json_schema", json.dumps(schema), 2, temperature=temperature):
        jsonschema.validate(json.loads(text), schema)


def test_any_object_is_an_object(engine):
    texts = answers(engine, "json_object", "", 6, temperature=1)
    assert texts and all(isinstance(json.loads(text), dict) for text in texts)


@pytest.mark.parametrize(
    "pattern",
    [
        r"a+",
        r"[a-c]{2,5}\d{1,3}x?",
        r"(yes|no|maybe)( or (yes|no))*!",
        r"\w{1,5}@\w{1,9}\.(com|org)",
        r".{3}",
        r"/[/\\]\s\n\"'{1,2}\x41#",
    ],
)
def test_an_answer_matches_its_regex_as_a_whole(engine, pattern):
    texts = answers(engine, "regex", pattern, 6, temperature=1)
    assert texts and all(re.fullmatch(pattern, text) for text in texts)


def test_an_answer_is_one_of_its_choices(engine):
    choices = ["yes", "no", 'so "so"\n', "ja / nein \\", "ünter"]
    texts = answers(engine, "choice", json.dumps(choices), 20, temperature=3)
    assert len(texts) == 20 and set(texts) <= set(choices) and len(set(texts)) > 1


@pytest.mark.parametrize(
    "source", ['root ::= "a" [0-9]+ ("," "b")*', 'start: "a" /[0-9]+/ ("," "b")*']
)
def test_ebnf_is_read_as_gbnf_or_as_lark(engine, source):
    texts = answers(engine, "ebnf", source, 6, temperature=1)
    assert texts and all(re.fullmatch(r"a\d+(,b)*", text) for text in texts)


def test_a_complete_answer_ends(engine):
    (text,) = answers(engine, "regex", "abc", ignore_eos=False)
    assert text == "abc"


def test_a_constrained_answer_does_not_depend_on_its_company(engine):
    source = json.dumps({"type": "array", "items": {"type": "integer"}, "maxItems": 4})
    params = SamplingParams(temperature=1, seed=5, grammar=Grammar("json_schema", source))
    alone = engine.generate("Go>", params)[0].text
    others = [SamplingParams(temperature=1, seed=i, max_tokens=40) for i in range(5)]
    streams = [engine.stream("Go>", one) for one in [*others, params, *others]]
    texts = ["".join(delta.text for delta in stream) for stream in streams]
    assert texts[5] == alone


def test_preemption_changes_nothing():
    """Few pages: answers are set back and computed again, and their grammars with them."""
    source = json.dumps({"type": "array", "items": {"type": "string"}, "minItems": 40})
    params = [
        SamplingParams(
            temperature=1, seed=i, max_tokens=200, grammar=Grammar("json_schema", source)
        )
        for i in range(4)
    ]

    def texts(page_count):
        small = fake_engine(
            FakeProgram(VOCABULARY, any_logits), context=256, page_count=page_count, max_batch=4
        )
        streams = [small.stream("Go>", one) for one in params]
        return ["".join(d.text for d in stream) for stream in streams], small.stats.preemptions

    roomy, none = texts(16)
    tight, some = texts(6)
    assert roomy == tight and none == 0 and some > 0


@given(st.lists(st.integers(0, 8), max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_state_is_a_function_of_the_tokens(compiler, lengths):
    """However it was led there, back or forth."""
    grammar = compiler.compile(Grammar("regex", "[a-c]*d{2}"))
    text = list(b"abcabcdd")
    state = GrammarState(grammar)
    for length in lengths:
        assert (state.bits(text[:length]) == GrammarState(grammar).bits(text[:length])).all()


def test_a_grammar_and_other_constraints_may_contradict(engine):
    params = SamplingParams(grammar=Grammar("regex", "b+"), allowed_ids=[ord("a"), 256])
    with pytest.raises(RequestError, match="contradict"):
        engine.generate("Go>", params)
    engine.check()


def test_equal_grammars_are_compiled_once(compiler):
    compiled = []
    grammar = Grammar("regex", "once+")
    threads = [
        threading.Thread(target=lambda: compiled.append(compiler.compile(grammar)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 4 and all(one is compiled[0] for one in compiled)


def test_a_compilation_without_end_is_given_up(compiler, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr("slipstream.engine.grammar_compile.COMPILE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(compiler, "_build", lambda grammar: release.wait(5))
    with pytest.raises(RequestError, match="takes more than"):
        compiler.compile(Grammar("regex", "slow"))
    release.set()


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "(((a{0,99}){0,99}){0,99}){0,99}"),
        Grammar("regex", "(a|a?)+" * 200 + "b"),
        Grammar("json_schema", json.dumps({"enum": [f"x{i}" for i in range(20_000)]})),
        Grammar("json_schema", json.dumps({"type": "array", "minItems": 1_000_000})),
        Grammar("json_schema", json.dumps({"$ref": "#"})),
        Grammar("ebnf", 'root ::= root "a" | root root | "b"'),
    ],
    ids=["regex in regex", "ambiguous", "enum", "long", "itself", "left recursion"],
)
def test_a_hostile_grammar_is_refused_or_served(engine, grammar):
    """Never a crash, and never a wait: the engine goes on with others."""
    params = SamplingParams(temperature=1, seed=1, grammar=grammar, max_tokens=30)
    try:
        assert engine.generate("Go>", params)[0].finish in {"stop", "length"}
    except RequestError as error:
        assert "grammar" in str(error)
    engine.check()


def test_a_model_without_an_end_of_turn_cannot_be_constrained():
    endless = fake_engine(
        FakeProgram(VOCABULARY, any_logits), tokenizer=ByteTokenizer(eos_ids=frozenset())
    )
    with pytest.raises(RequestError, match="no end of turn"):
        endless.request("Go", SamplingParams(grammar=Grammar("regex", "a")))
