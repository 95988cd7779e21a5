"""The step of this library as a logits processor of Hugging Face `generate`. The only file that needs transformers."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from adaptive.info import Choice, Fault, Report, SamplingInfo
from adaptive.parameters import ParameterError
from adaptive.policies import Course, Phase, Policy, PolicyState
from adaptive.rows import Rows, RowSettings
from adaptive.sampler import conclude, faults, shape, step

# What generate must be told, so that nothing else changes the model's logits or the draw.
_NEUTRAL = {
    "do_sample": True,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
_UNSUITED = (
    "generate did not go on with the tokens of the last step. Beam search, assisted decoding and processors that rule "
    "out tokens after this one are not supported; if this is another generation, call finish() after the last one"
)


class _Row:
    """How far one row has come. records, choices: of its tokens so far. fault: why it failed, if it did."""

    def __init__(self, settings: RowSettings, prompt: Sequence[int], tokenizer: Any) -> None:
        state = None if settings.state is None else PolicyState(settings.policy.name, dict(settings.state))
        self.course = Course(settings.policy, state)
        self._given = replace(settings, history=replace(settings.history, prompt=prompt, output=()))
        self._tokenizer = tokenizer
        self._phase_begins, self._read = 0, 0
        self.records: list[SamplingInfo] = []
        self.choices: list[list[Choice]] = []
        self.ended = False
        self.fault: str | None = None

    @property
    def settings(self) -> RowSettings:
        """How its next token is drawn."""
        history = replace(self._given.history, output=[info.token_id for info in self.records])
        return replace(self._given, policy=self.course.policy, state=self.course.state, history=history)

    def take(self, info: SamplingInfo, choices: list[Choice]) -> bool:
        """Take in a token; whether the next one is drawn under another policy."""
        self.records.append(info)
        self.choices.append(choices[: self._given.candidates])
        turned = self.course.take(info.state, info.original_entropy, self._text() if self.course.reads_text else "")
        if turned:
            self._phase_begins, self._read = len(self.records), 0
        return turned

    def _text(self) -> str:
        """The whole characters that the last token added to the text of this phase."""
        ids = [info.token_id for info in self.records[self._phase_begins :]]
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        new, self._read = text[self._read :], max(self._read, len(text))
        return new


class AdaptiveLogitsProcessor(LogitsProcessor):
    """Policies, filters and penalties in `model.generate(**inputs, **processor.arguments(), ...)`.

    It draws each token itself, from (seed, position) as the server does, and leaves generate no other choice. With
    `draws=False` it gives generate the log probabilities of the shaped distribution instead, to draw from.

    records: the sampling info of each row's tokens; complete after `finish`. choices: its most likely tokens, if its
    settings ask for candidates. settings: of each row, with the seeds in use. faults: why a row failed, by row; it ends
    there, and the others go on.
    """

    supports_continuous_batching = False  # its rows come and go, and state would not follow them

    def __init__(
        self,
        settings: Policy | RowSettings | Sequence[Policy | RowSettings],
        *,
        tokenizer: Any = None,
        pad_token_id: int | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        draws: bool = True,
    ) -> None:
        """settings: of every row, or one for each row. A policy stands for settings with a fresh seed; one RowSettings
        for all rows gives row i its seed + i. History is read from the prompt; only its breakers count.

        tokenizer: needed by phases that end at a marker; it also names the padding and the end, unless they are given.
        ParameterError if a marker has no tokenizer.
        """
        self.draws = draws
        self._given = settings
        self._tokenizer = tokenizer
        self._pad = pad_token_id if pad_token_id is not None else getattr(tokenizer, "pad_token_id", None)
        end = eos_token_id if eos_token_id is not None else getattr(tokenizer, "eos_token_id", None)
        self._ends = [] if end is None else [end] if isinstance(end, int) else list(end)
        for one in [settings] if isinstance(settings, Policy | RowSettings) else settings:
            policy = one.policy if isinstance(one, RowSettings) else one
            phases: tuple[Phase, ...] = getattr(policy, "phases", ())
            if tokenizer is None and any(isinstance(phase.until, str) for phase in phases):
                raise ParameterError([("tokenizer", "must be given: a phase ends at a marker, which is text")])
        self.settings: list[RowSettings] = []
        self._rows: list[_Row] = []
        self._seen: Tensor | None = None
        self._mask: Tensor | None = None
        self.records: list[list[SamplingInfo]] = []
        self.choices: list[list[list[Choice]]] = []

    def arguments(self, attention_mask: Tensor | None = None) -> dict[str, Any]:
        """What generate must be told, this processor among it, for a new generation.

        attention_mask: of the prompts, so that penalties do not count padding. Without it, padding is what stands at
        the left of a prompt and is the padding token.
        """
        self._forget()
        self._mask = attention_mask
        arguments: dict[str, Any] = _NEUTRAL | {"logits_processor": [self]}
        if self._ends:
            arguments["eos_token_id"] = self._ends
        if self._padding is not None:
            arguments["pad_token_id"] = self._padding
        return arguments

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """One step: raw logits `[rows, vocab]` to the log probabilities that generate draws from, float32."""
        if self._follows(input_ids):
            self._take(input_ids[:, -1])
        else:
            self._begin(input_ids, scores)
        self._seen = input_ids
        if self.draws:
            drawn, report = step(scores, self._batch)
            self._conclude: Callable[[Tensor], Report] = lambda _: report
            logs = torch.full_like(scores, -torch.inf).scatter_(-1, drawn[:, None], 0.0)
            return self._close(logs, report.packed[:, 1] != Fault.NONE)
        shaped = shape(scores, self._batch)
        self._conclude = lambda tokens: conclude(shaped, self._batch, tokens)
        return self._close(shaped.log_probabilities().to(scores.dtype), faults(shaped) != Fault.NONE)

    def finish(self, sequences: Any) -> list[list[SamplingInfo]]:
        """Take in the last token and end the generation; the records of each row.

        sequences: what generate returned, prompts and all. ValueError if it is not of this generation.
        """
        ids: Tensor = getattr(sequences, "sequences", sequences)
        if self._seen is None:
            raise ValueError("nothing was generated since the last finish()")
        width, seen = ids.shape[-1], self._seen.shape[-1]
        if not torch.equal(ids[:, :seen], self._seen[:, :width]) or width > seen + 1:
            raise ValueError("sequences are not what this processor has generated")
        if width > seen:  # else generate ran ahead of its own end, as it does on a GPU
            self._take(ids[:, -1])
        drawn = width - self._prompt.shape[-1]
        self.records = [row.records[:drawn] for row in self._rows]
        self.choices = [row.choices[:drawn] for row in self._rows]
        self._seen = None
        return self.records

    @property
    def faults(self) -> dict[int, str]:
        """Why rows failed, by row."""
        return {number: row.fault for number, row in enumerate(self._rows) if row.fault is not None}

    def _forget(self) -> None:
        self._seen = self._mask = None
        self._rows, self.records, self.choices = [], [], []

    @property
    def _padding(self) -> int | None:
        """What generate puts after the end of a row: without a padding token it takes the first end."""
        return self._pad if self._pad is not None else next(iter(self._ends), None)

    def _follows(self, input_ids: Tensor) -> bool:
        """Whether this is the next step of the generation in progress; ValueError if it is another of its steps."""
        seen = self._seen
        if seen is None or len(input_ids) != len(seen):
            return False
        if input_ids.shape[-1] == seen.shape[-1] + 1 and torch.equal(input_ids[:, :-1], seen):
            return True
        width = self._prompt.shape[-1]
        if input_ids.shape[-1] > width and torch.equal(input_ids[:, :width], self._prompt):
            raise ValueError(_UNSUITED)
        return False

    def _begin(self, prompt: Tensor, scores: Tensor) -> None:
        mask = self._mask
        self._forget()
        _refuse_beams(prompt, scores)
        self._prompt = prompt
        self.settings = self._resolved(len(prompt))
        begins = self._text_begins(prompt, mask)
        texts = [ids[begin:] for ids, begin in zip(prompt.tolist(), begins, strict=True)]
        self._rows = [_Row(s, text, self._tokenizer) for s, text in zip(self.settings, texts, strict=True)]
        self.records, self.choices = [row.records for row in self._rows], [row.choices for row in self._rows]
        self._batch = Rows([row.settings for row in self._rows], scores.device)

    def _resolved(self, rows: int) -> list[RowSettings]:
        """The settings of each row, seeds and all."""
        given = self._given
        if isinstance(given, RowSettings):
            return [replace(given, seed=(given.seed + row) % 2**64) for row in range(rows)]
        each = [given] * rows if isinstance(given, Policy) else list(given)
        if len(each) != rows:
            raise ParameterError([("settings", f"must be one, or one for each row: {rows} rows, {len(each)} settings")])
        return [s if isinstance(s, RowSettings) else RowSettings(s, seed=secrets.randbits(64)) for s in each]

    def _text_begins(self, prompt: Tensor, mask: Tensor | None) -> list[int]:
        """How many places of each row, at its left, are padding."""
        if mask is not None:
            mask = mask.repeat_interleave(len(prompt) // len(mask), 0)  # num_return_sequences
            return (mask.cumsum(-1) == 0).sum(-1).tolist()
        if self._pad is None or prompt.shape[-1] == 0:
            return [0] * len(prompt)
        padding = ((prompt != self._pad).cumsum(-1) == 0).sum(-1)
        if self._pad in self._ends:  # it may as well begin the text, as it does in the longest row
            padding = padding - padding.min()
        return padding.tolist()

    def _take(self, tokens: Tensor) -> None:
        """Take in what generate has gone on with."""
        report = self._conclude(tokens)
        turned = {}
        for number, ((info, choices), token) in enumerate(zip(report.records(), tokens.tolist(), strict=True)):
            row = self._rows[number]
            if row.ended:
                continue
            if info.fault:
                row.ended, row.fault = True, _said(info, report.faults.get(number))
            elif token != info.token_id or (not self.draws and token == self._pad and token not in self._ends):
                if self._padding not in (None, token):
                    raise ValueError(_UNSUITED)
                row.ended = True  # by a stopping criterion: padding stands in place of the token
            else:
                if row.take(info, choices):
                    turned[number] = row.settings
                row.ended = token in self._ends
        if turned:
            self._batch = self._batch.change(range(len(self._rows)), anew=turned)

    def _close(self, logs: Tensor, failed: Tensor) -> Tensor:
        """The same with nothing but an end for rows that fail now, bool `[rows]`, or have failed; RuntimeError if no
        end is known. What rows that have ended well are given is all the same: generate pads them."""
        well = torch.tensor([row.ended and row.fault is None for row in self._rows], device=logs.device)
        closed = failed | torch.tensor([row.fault is not None for row in self._rows], device=logs.device)
        if not bool(closed.any()):
            return logs
        end = self._ends[0] if self._ends else self._pad
        if end is None and bool((closed & ~well).any()):
            raise RuntimeError("a row failed, and no eos_token_id is known to end it with")
        only = torch.full_like(logs, -torch.inf)
        only[:, end or 0] = 0.0
        return torch.where(closed[:, None], only, logs)


def _said(info: SamplingInfo, policy: str | None) -> str:
    if info.fault == Fault.LOGITS:
        return "the model gave no distribution (NaN or infinite logits)"
    return f"the policy failed: {policy or 'it gave no temperature or no distribution'}"


def _refuse_beams(prompt: Tensor, scores: Tensor) -> None:
    """ValueError for beam search: its rows begin alike, and its scores are normalised already, as logits never are."""
    normalised = bool((scores.logsumexp(-1).abs() < 1e-4).all())
    if normalised and len(prompt) > 1 and len(prompt.unique(dim=0)) < len(prompt):
        raise ValueError("beam search (num_beams above 1) is not supported: it does not draw")
