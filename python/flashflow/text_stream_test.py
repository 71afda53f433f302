import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteFallback, ByteLevel, Fuse, Replace, Sequence, Strip
from tokenizers.models import BPE

from flashflow.text_stream import TextStream


def decode_bytes(ids):
    """One token a byte, as in byte-level BPE without merges."""
    return bytes(ids).decode("utf-8", errors="replace")


def run(ids, decode=decode_bytes, stop=()):
    """The deltas up to the end or a stop string, and how many tokens were used."""
    stream = TextStream(decode, stop)
    deltas: list[str] = []
    while len(deltas) < len(ids) and not stream.stopped:
        deltas.append(stream.push(ids[len(deltas)]))
    used = len(deltas)
    deltas.append(stream.finish())
    assert "".join(deltas) == stream.text
    return deltas, stream, used


@given(st.text(max_size=30))
def test_whole_text_comes_out(text):
    deltas, stream, _ = run(list(text.encode("utf-8", errors="surrogatepass")))
    assert stream.text == text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")


@given(st.binary(max_size=30))
def test_any_bytes_come_out_as_decoded_at_once(data):
    _, stream, _ = run(list(data))
    assert stream.text == decode_bytes(list(data))


def test_characters_come_whole_and_at_once():
    deltas, _, _ = run(list("aé€😀b".encode()))
    assert [d for d in deltas if d] == ["a", "é", "€", "😀", "b"]
    assert deltas[1] == "" and deltas[2] == "é"  # with its last byte, not later


def test_incomplete_character_at_the_end_becomes_a_replacement():
    deltas, stream, _ = run(list("a€".encode()[:-1]))
    assert deltas == ["a", "", "", "\ufffd"]


def test_decoder_that_strips_the_first_space():
    """As Llama's: "▁" stands for a space, the first of a text is dropped."""
    vocab = {"▁Hello": 0, "▁world": 1, "!": 2, "<0xE2>": 3, "<0x82>": 4, "<0xAC>": 5, "<unk>": 6}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = Sequence([Replace("▁", " "), ByteFallback(), Fuse(), Strip(" ", 1, 0)])
    ids = [0, 1, 3, 4, 5, 2, 1]
    deltas, stream, _ = run(ids, tokenizer.decode)
    assert stream.text == tokenizer.decode(ids) == "Hello world€! world"
    assert deltas[1] == " world"


def test_special_tokens_add_nothing_and_hide_nothing():
    tokenizer = Tokenizer(BPE(vocab={"a": 0, "Ġb": 1}, merges=[]))
    tokenizer.decoder = ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    deltas, stream, _ = run([0, 2, 1, 2], tokenizer.decode)
    assert deltas == ["a", "", " b", "", ""]


@pytest.mark.parametrize("stop", [("STOP",), ("STOP", "nothing"), ("xSTOPx", "STOP")])
def test_text_ends_before_the_stop_string(stop):
    text = "go on STOP not this"
    deltas, stream, used = run(list(text.encode()), stop=stop)
    assert stream.text == "go on " and stream.stopped
    assert used == len("go on STOP")


def test_beginning_of_a_stop_string_is_held_back_until_it_is_none():
    deltas, stream, _ = run(list(b"a\n\nb\n"), stop=["\n\nUser:"])
    assert deltas == ["a", "", "", "\n\nb", "", "\n"]


def test_the_first_of_several_stop_strings_counts():
    def decode(ids):
        return "".join(["one two three", " four"][i] for i in ids)

    _, stream, _ = run([0, 1], decode, stop=["three", "two"])
    assert stream.text == "one "


def test_stop_string_over_several_tokens_and_repeated_beginnings():
    _, stream, used = run(list(b"aaab!"), stop=["aab"])
    assert stream.text == "a" and used == 4


@given(st.text(alphabet="ab", max_size=12), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3))
def test_nothing_of_a_stop_string_or_past_it_comes_out(text, stop):
    deltas, stream, used = run(list(text.encode()), stop=stop)
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    if not ends:
        assert stream.text == text and not stream.stopped
    else:
        first_end = min(ends)[0]
        assert used == first_end and stream.stopped
        assert stream.text == text[: min(start for end, start in ends if end == first_end)]
