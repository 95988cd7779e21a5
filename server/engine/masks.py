"""What may not be drawn at a step."""

from collections.abc import Sequence

import torch

import adaptive
from server.engine.generation import Generation
from server.engine.model import Model


def masks(members: Sequence[Generation], model: Model) -> adaptive.Masks | None:
    """Ends before min_output_tokens, and what leaves a form; None, as nearly always, if there is nothing.

    members: whose rows they are, in order. The loops are over rows that have such a rule; a form is an automaton on the
    host.
    """
    pairs = [(row, token) for row, member in enumerate(members) for token in member.suppressed]
    formed = [(row, member.request.form) for row, member in enumerate(members) if member.request.form]
    if not pairs and not formed:
        return None
    found = adaptive.Masks()
    if pairs:
        rows, tokens = torch.tensor(pairs, dtype=torch.int64, device=model.device).T
        found.ruled_out = (rows, tokens)
    if formed:
        words = torch.stack([torch.frombuffer(bytearray(form.allowed()), dtype=torch.uint8) for _, form in formed])
        bits = (words[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        allowed = bits.flatten(1)[:, : model.vocab_size].bool()
        found.allowed = (torch.tensor([row for row, _ in formed], device=model.device), allowed.to(model.device))
    return found
