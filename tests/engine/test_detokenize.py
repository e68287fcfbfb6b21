"""Text while it comes: characters whole, stop strings found wherever tokens break."""

import tokenizers
from fakes import ByteTokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from slipstream.engine.detokenize import CharacterStream, StopFinder, TextStream

BYTES = ByteTokenizer()


def pieces(stream, ids):
    out = []
    for token in ids:
        text, stopped = stream.push(token)
        out.append(text)
        if stopped:
            return out, stopped
    text, stopped = stream.finish()
    return [*out, text], stopped


def test_a_character_comes_whole():
    stream = CharacterStream(BYTES)
    assert [stream.push(byte) for byte in "é€😀".encode()] == [
        "",
        "é",
        "",
        "",
        "€",
        "",
        "",
        "",
        "😀",
    ]


def test_bytes_that_are_no_character_come_out_once_that_is_sure():
    stream = CharacterStream(BYTES)
    assert [stream.push(b) for b in (0xE2, 0xE2, ord("a"))] == ["", "", "\ufffd\ufffda"]


def test_bytes_that_are_no_text_are_not_held_for_ever():
    stream = CharacterStream(BYTES)
    out = [stream.push(0xFF) for _ in range(100)]
    assert "".join(out) == "\ufffd" * 97 and stream.flush() == "\ufffd" * 3


def test_an_unfinished_character_is_flushed_as_replacement():
    stream = CharacterStream(BYTES)
    assert stream.push(0xC3) == "" and stream.flush() == "\ufffd" and stream.flush() == ""


def test_the_prompt_is_context_but_never_output():
    stream = CharacterStream(BYTES, list(b"prompt"))
    assert stream.push(ord("!")) == "!"


class Words:
    """Joins with spaces, none in front: like SentencePiece, spacing depends on what came before."""

    def decode(self, ids, skip_special=True):
        return " ".join(f"w{i}" for i in ids)


def test_spacing_depends_on_the_tokens_before():
    stream = CharacterStream(Words(), [1])
    assert [stream.push(i) for i in range(2, 60)] == [f" w{i}" for i in range(2, 60)]
    alone = CharacterStream(Words())
    assert alone.push(5) == "w5" and alone.push(6) == " w6"


@given(st.text(min_size=1, max_size=80), st.integers(0, 9))
def test_pieces_join_to_the_text_and_are_never_half_a_character(text, context):
    data = text.encode()
    stream = CharacterStream(BYTES, list(b"x" * context))
    out = [stream.push(byte) for byte in data]
    assert "".join(out) + stream.flush() == text
    assert all("\ufffd" not in piece for piece in out) or "\ufffd" in text


@given(st.binary(max_size=120))
def test_any_bytes_come_out_as_a_decoder_would_write_them(data):
    stream = CharacterStream(BYTES)
    joined = "".join(stream.push(byte) for byte in data) + stream.flush()
    assert joined == data.decode(errors="replace")


class ByteFallback:
    """SentencePiece with tokens for bytes, as `tokenizers` decodes it: ids 0-255, then words."""

    words = ("▁hello", "▁", "a", "é", "▁好")

    def __init__(self):
        vocabulary = {f"<0x{i:02X}>": i for i in range(256)}
        vocabulary |= {word: 256 + i for i, word in enumerate((*self.words, "<unk>"))}
        model = models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
        self.inner = tokenizers.Tokenizer(model)
        self.inner.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )

    def decode(self, ids, skip_special=True):
        return self.inner.decode(list(ids), skip_special_tokens=skip_special)


FALLBACK = ByteFallback()
fallback_pieces = st.one_of(
    st.characters(min_codepoint=0x80, exclude_categories=["Cs"], exclude_characters="\ufffd").map(
        lambda c: (c, list(c.encode()))
    ),
    st.sampled_from(range(len(ByteFallback.words))).map(
        lambda i: (ByteFallback.words[i].replace("▁", " "), [256 + i])
    ),
)


@given(st.lists(fallback_pieces, min_size=1, max_size=60), st.lists(fallback_pieces, max_size=5))
def test_byte_tokens_become_whole_characters(answer, prompt):
    """Also in long runs of them, which decoders render anew with every byte."""
    prompt_ids = [256, *(i for _, ids in prompt for i in ids)]
    stream = CharacterStream(FALLBACK, prompt_ids)
    out = [stream.push(i) for _, ids in answer for i in ids]
    assert "".join(out) + stream.flush() == "".join(text for text, _ in answer)
    assert all("\ufffd" not in piece for piece in out)


def test_a_lost_byte_among_byte_tokens_costs_no_later_text():
    stream = CharacterStream(FALLBACK, [256])
    out = "".join(stream.push(i) for i in [*"€".encode(), 0xFF, 258, *"😀".encode(), 258])
    assert out.startswith("€\ufffd") and out.endswith("a😀a")


def test_a_stop_string_across_tokens_is_cut_off():
    stream = TextStream(BYTES, stop=("END",))
    assert pieces(stream, b"one ENDING") == (["o", "n", "e", " ", "", "", ""], "END")


def test_a_beginning_of_a_stop_string_is_held_then_let_go():
    finder = StopFinder(["END"])
    assert finder.push("the E") == ("the ", None)
    assert finder.push("N") == ("", None)
    assert finder.push("vy") == ("ENvy", None)
    assert finder.push("EN") == ("", None) and finder.flush() == "EN"


def test_the_earliest_stop_string_wins():
    assert StopFinder(["b", "ab"]).push("xab") == ("x", "ab")
    assert StopFinder(["world", "lo w"]).push("hello world") == ("hel", "lo w")


@given(
    st.text("ab", max_size=40),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), min_size=40, max_size=40),
)
def test_stop_strings_are_found_wherever_the_text_is_cut(text, stops, sizes):
    finder, out, found, start = StopFinder(stops), "", None, 0
    for size in sizes:
        if start >= len(text) or found:
            break
        new, found = finder.push(text[start : start + size])
        out, start = out + new, start + size
    out += "" if found else finder.flush()
    starts = [text.find(stop) for stop in stops if stop in text]
    if found:
        assert out + found in text and text.startswith(out)
        assert not any(stop in out for stop in stops)
    else:
        assert not starts and out == text


def test_equal_cuts_whatever_the_token_sizes():
    """One token at a time, the text is cut where the first stop string is complete."""
    for stop in ("lo", "l", "o w"):
        out, found = pieces(TextStream(BYTES, stop=(stop,)), b"hello world")
        assert found == stop and "".join(out) == "hello world"[: "hello world".index(stop)]
