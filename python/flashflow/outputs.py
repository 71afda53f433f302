"""What comes back from generation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RequestTiming:
    """How long one request took.

    Attributes:
        prefill_s: from its submission to its first token, waiting behind other requests included.
        decode_s: from its first token to its last.
        decode_tok_s: tokens a second after the first one; 0 where there was only one.
        token_s: when each token came, in seconds after the submission.
    """

    prefill_s: float
    decode_s: float
    decode_tok_s: float
    token_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class RequestOutput:
    """The answer to one prompt.

    Attributes:
        prompt: its text; None where it came as token ids.
        prompt_token_ids: what the model saw.
        text: what was generated; it ends before a stop string, and special tokens are left out.
        token_ids: all generated tokens, with the one that ended the text.
        finish_reason: "eos" (the model's own end of sequence), "stop" (a stop string or one of stop_token_ids) or
            "length" (max_tokens, or the end of the model's context).
        logprobs: natural logarithms of the probabilities that the model gave the generated tokens, before
            temperature and the other sampling parameters; None unless asked for.
        top_logprobs: for each generated token the most probable ones at its place, (token id, logprob), the most
            probable first; None unless asked for.
        timing: of this request.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[float] | None
    top_logprobs: list[list[tuple[int, float]]] | None
    timing: RequestTiming
