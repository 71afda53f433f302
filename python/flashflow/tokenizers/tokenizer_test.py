"""Encoding against independent oracles: a plain BPE written here from the published rule, and transformers."""

import json
import unicodedata

import pytest
import regex
import tokenizers
import transformers

from flashflow.errors import DataLossError, InvalidArgumentError, UnsupportedError
from flashflow.loaders.byte_level_bpe import AddedToken, byte_level_bpe_json
from flashflow.loaders.loaded_model import GenerationInfo
from flashflow.loaders.resolve import resolve
from flashflow.tokenizers.gpt2 import END_OF_TEXT_ID, VOCAB_SIZE, gpt2_tokenizer, gpt2_tokenizer_json
from flashflow.tokenizers.tokenizer import Tokenizer

TEXTS = [
    "",
    " ",
    "   \n\n\t \r\n  ",
    "Hello, world! It's 2024; we've 1234567 things.",
    "  leading and trailing  ",
    "Ünïcödé: naïve café, Ελληνικά, русский, 東京都, 한국어, العربية, हिन्दी",
    "emoji 🙂👩‍👩‍👧‍👦🇩🇪 and math ∑∫√≠ ½ ² Ⅷ ٣",
    "combining: e\u0301 a\u0308 \u200b\u00a0\ufeff\u2028\u0085",
    "null \0 and control \x01\x1f\x7f",
    "def f(x):\n\treturn  x+1  # comment\n\n\nclass A: pass",
    "I'LL DON'T WE'RE ''s 's't",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<|endoftext|>x<|im_start|> y<|im_end|>",
    "\U0010ffff\ud7ff\ue000",
]
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def alphabet():
    """GPT-2's printable character for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


class PlainBpe:
    """Sennrich's byte pair encoding over bytes, one merge of the lowest rank after another."""

    def __init__(self, tokenizer_json, pattern, digits_alone=False):
        fields = json.loads(tokenizer_json)
        self.vocab = fields["model"]["vocab"]
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(fields["model"]["merges"])}
        self.special = {token["content"]: token["id"] for token in fields["added_tokens"]}
        self.pattern = regex.compile(pattern)
        self.digits_alone = digits_alone

    def encode(self, text):
        ids = []
        for part in regex.split("(" + "|".join(map(regex.escape, self.special)) + ")", text):
            if part in self.special:
                ids.append(self.special[part])
                continue
            pieces = regex.split(r"(\p{Nd}|\p{Nl}|\p{No})", part) if self.digits_alone else [part]
            for piece in pieces:
                for word in self.pattern.findall(piece):
                    ids += self._merge([alphabet()[b] for b in word.encode()])
        return ids

    def _merge(self, parts):
        while len(parts) > 1:
            rank, at = min(
                (self.ranks.get(pair, 1 << 60), i) for i, pair in enumerate(zip(parts, parts[1:], strict=False))
            )
            if rank == 1 << 60:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self.vocab[part] for part in parts]


@pytest.fixture(scope="module")
def smollm2():
    loaded = resolve("smollm2-135m").load()
    return loaded, Tokenizer(loaded.tokenizer_json, loaded.generation, loaded.config.vocab_size)


@pytest.fixture(scope="module")
def gpt2():
    return Tokenizer(gpt2_tokenizer_json(), GenerationInfo(None, (END_OF_TEXT_ID,)), VOCAB_SIZE)


def test_smollm2_equals_plain_bpe(smollm2):
    loaded, tokenizer = smollm2
    oracle = PlainBpe(loaded.tokenizer_json, GPT2_WORDS, digits_alone=True)
    for text in TEXTS:
        assert tokenizer.encode(text) == oracle.encode(text), text


def test_gpt2_equals_plain_bpe(gpt2):
    oracle = PlainBpe(gpt2_tokenizer_json(), GPT2_WORDS)
    for text in TEXTS:
        assert gpt2.encode(text) == oracle.encode(text), text


def test_gpt2_equals_transformers(gpt2, tmp_path):
    fields = json.loads(gpt2_tokenizer_json())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(fields["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, fields["merges"])) + "\n")
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path, tokenizer_type="gpt2")
    for text in TEXTS:
        ids = gpt2.encode(text)
        assert ids == oracle.encode(text), text
        assert gpt2.decode(ids) == oracle.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(("pre", "digits"), [("llama-bpe", r"\p{N}{1,3}"), ("qwen2", r"\p{N}")])
def test_words_of_other_models_equal_plain_bpe(pre, digits):
    merges = ["t h", "th e", "1 2", "12 3", "3 4", "12 34", "! !", "Ċ Ċ"]
    vocab = {token: i for i, token in enumerate([*alphabet().values(), *(merge.replace(" ", "") for merge in merges)])}
    added = [AddedToken(len(vocab), "<|x|>", special=True)]
    tokenizer_json = byte_level_bpe_json(vocab, merges, pre, added_tokens=added)
    oracle = PlainBpe(tokenizer_json, WORDS.replace("DIGITS", digits))
    tokenizer = Tokenizer(tokenizer_json, GenerationInfo(), 1000)
    for text in [*TEXTS, "the12345the!!!\n\n\nTHE<|x|>the"]:
        if pre == "qwen2":
            text = unicodedata.normalize("NFC", text)
            assert tokenizer.encode(unicodedata.normalize("NFD", text)) == oracle.encode(text), text
        assert tokenizer.encode(text) == oracle.encode(text), text


def test_llama3_takes_whole_words_of_its_vocabulary():
    merges = ["a b", "ab c", "c d", "ab cd"]  # "ab" + "cd" is out of reach, as "abc" comes first
    vocab = {token: i for i, token in enumerate(["a", "b", "c", "d", "ab", "abc", "cd", "abcd"])}
    encoded = {
        pre: Tokenizer(byte_level_bpe_json(vocab, merges, pre), GenerationInfo(), 8).encode("abcd")
        for pre in ("llama-bpe", "qwen2")
    }
    assert encoded == {"llama-bpe": [7], "qwen2": [5, 3]}


def test_added_tokens_must_have_the_ids_that_they_get():
    for wrong in (AddedToken(7, "<|x|>", True), AddedToken(1, "a", True)):
        with pytest.raises(DataLossError, match="added token"):
            byte_level_bpe_json({"a": 0, "b": 1}, [], "gpt-2", added_tokens=[wrong])


def test_decode_is_the_inverse(smollm2, gpt2):
    for tokenizer in (smollm2[1], gpt2):
        for text in TEXTS:
            assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
    assert smollm2[1].decode(smollm2[1].encode("a<|im_end|>b")) == "ab"
    assert smollm2[1].decode([49151 + 1, -0]) == ""  # no such token, and a hidden one
    assert gpt2.decode(gpt2.encode("é")[:1] + gpt2.encode("🙂")[:1]) == "é\ufffd"


def test_text_that_is_no_text(gpt2):
    with pytest.raises(InvalidArgumentError, match=r"'\\ud800' at index 1"):
        gpt2.encode("a\ud800b")


def test_gpt2_facts():
    tokenizer = gpt2_tokenizer()
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert tokenizer.token_to_id("<|endoftext|>") == END_OF_TEXT_ID
    assert tokenizer.encode("Hello world").ids == [15496, 995]


def test_smollm2_chat_equals_transformers(smollm2):
    loaded, tokenizer = smollm2
    messages = [{"role": "user", "content": "Hi  there"}, {"role": "assistant", "content": "Yes"}]
    oracle = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(loaded.tokenizer_json.decode()),
        chat_template=loaded.generation.chat_template,
    )
    expected = oracle.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_chat(messages) == expected
    assert tokenizer.encode_chat(messages)[:2] == [1, 9690]
    assert tokenizer.chat_text(messages, add_generation_prompt=False).endswith("Yes<|im_end|>\n")


def test_chat_adds_no_beginning_of_its_own():
    vocab = {character: i for i, character in enumerate("<s>ab")}
    bos = AddedToken(len(vocab), "<bos>", special=True)
    tokenizer_json = byte_level_bpe_json(vocab, [], "gpt-2", added_tokens=[bos], prefix_tokens=[bos])
    generation = GenerationInfo(bos.id, (), "{{ bos_token }}{{ messages[0].content }}")
    tokenizer = Tokenizer(tokenizer_json, generation, 6)
    assert tokenizer.encode("ab") == [5, 3, 4]
    assert tokenizer.encode_chat([{"role": "user", "content": "ab"}]) == [5, 3, 4]


def test_template_sees_the_special_tokens(smollm2):
    loaded, _ = smollm2
    generation = GenerationInfo(1, (2, 0), "{{ bos_token }}|{{ eos_token }}")
    tokenizer = Tokenizer(loaded.tokenizer_json, generation, loaded.config.vocab_size)
    assert tokenizer.chat_text([{"role": "user", "content": ""}]) == "<|im_start|>|<|im_end|>"


def test_no_template(gpt2):
    with pytest.raises(UnsupportedError, match="no chat template"):
        gpt2.encode_chat([{"role": "user", "content": "x"}])


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"}}', b"[" * 100_000])
def test_damaged_tokenizers(content):
    with pytest.raises(DataLossError, match="tokenizer is damaged"):
        Tokenizer(content, GenerationInfo(), 10)


def test_a_tokenizer_that_makes_the_library_panic():
    fields = json.loads(gpt2_tokenizer_json())
    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "absent", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    with pytest.raises(DataLossError, match="tokenizer is damaged"):
        Tokenizer(json.dumps(fields).encode(), GenerationInfo(), VOCAB_SIZE)


def test_ids_that_the_model_lacks(gpt2):
    with pytest.raises(DataLossError, match=r"token id 50256.*50256 embeddings"):
        Tokenizer(gpt2_tokenizer_json(), GenerationInfo(), 50256)


def test_settings_that_change_lengths_are_ignored():
    fields = json.loads(gpt2_tokenizer_json())
    fields["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    fields["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "!",
    }  # fmt: skip
    tokenizer = Tokenizer(json.dumps(fields).encode(), GenerationInfo(), VOCAB_SIZE)
    assert len(tokenizer.encode("one two three four")) == 4
