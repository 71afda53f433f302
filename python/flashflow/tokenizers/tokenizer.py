"""A model's tokenizer: the `tokenizers` library on the JSON that came with the model, and its chat template."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import tokenizers

from flashflow.errors import DataLossError, InvalidArgumentError, UnsupportedError
from flashflow.loaders.loaded_model import GenerationInfo
from flashflow.tokenizers.chat_template import ChatTemplate, Message

__all__ = ["Tokenizer"]


@contextlib.contextmanager
def _damage_is_data_loss() -> Iterator[None]:
    """The library raises bare Exception, and a BaseException of its own where a damaged file makes it panic."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataLossError(f"the tokenizer is damaged: {error}", op="tokenizer") from error


class Tokenizer:
    """Encodes and decodes. Safe to use from several threads.

    Args:
      tokenizer_json: a `tokenizers` JSON file.
      generation: the model's end tokens and chat template.
      vocab_size: rows of the model's token embedding.

    Raises:
      DataLossError: tokenizer_json is damaged, or makes ids that the model does not have.
    """

    def __init__(self, tokenizer_json: bytes, generation: GenerationInfo, vocab_size: int) -> None:
        with _damage_is_data_loss():
            self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json.decode("utf-8"))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._tokenizer.encode("a")
        self.generation = generation
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocab_size:
            raise DataLossError(
                f"the tokenizer has the token id {largest}, the model only {vocab_size} embeddings",
                op="tokenizer",
                hint="tokenizer and weights do not belong together",
            )
        self._template: ChatTemplate | None = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of text.

        Args:
          text: names of special tokens in it become these tokens.
          add_special_tokens: put what the model wants before a text, such as its beginning-of-sequence token.

        Raises:
          InvalidArgumentError: text has half of a surrogate pair, which is no character.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                f"the text has {text[error.start]!r} at index {error.start}, which is no character", op="text"
            ) from error
        with _damage_is_data_loss():
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are no character become U+FFFD, ids without a token become nothing."""
        with _damage_is_data_loss():
            text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def chat_text(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """A conversation as one text, by the model's chat template.

        Raises:
          UnsupportedError: the model has none.
          InvalidArgumentError: the messages are malformed, or the template refuses them.
        """
        if self.generation.chat_template is None:
            raise UnsupportedError(
                "the model has no chat template", op="chat", hint="give a prompt, or use a model made for chat"
            )
        if self._template is None:
            self._template = ChatTemplate(self.generation.chat_template, self._special_texts())
        return self._template.render(messages, add_generation_prompt)

    def encode_chat(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation; the template itself writes the special tokens. Raises as chat_text does."""
        return self.encode(self.chat_text(messages, add_generation_prompt), add_special_tokens=False)

    def _special_texts(self) -> dict[str, str]:
        eos = self.generation.eos_token_ids
        ids = {"bos_token": self.generation.bos_token_id, "eos_token": eos[0] if eos else None}
        return {name: self._tokenizer.id_to_token(i) or "" if i is not None else "" for name, i in ids.items()}
