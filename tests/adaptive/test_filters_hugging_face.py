"""With equal settings the distribution is that of Hugging Face `generate`: one filter at a time, and in chains."""

import warnings

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation import logits_process as hf
from transformers.generation.utils import GenerationMixin

import adaptive
from adaptive import Filters, Fixed, Penalties, Rows, RowSettings
from adaptive.sampler import shape
from tests import oracle
from tests.adaptive.cases import edge_rows

WARPERS = {
    "top_h": hf.TopHLogitsWarper,
    "top_k": hf.TopKLogitsWarper,
    "top_p": hf.TopPLogitsWarper,
    "min_p": hf.MinPLogitsWarper,
    "typical_p": hf.TypicalLogitsWarper,
    "epsilon_cutoff": hf.EpsilonLogitsWarper,
    "eta_cutoff": hf.EtaLogitsWarper,
}
"""In the order of `generate`."""
VALUES = {
    "top_h": (0.05, 0.4, 0.9),
    "top_k": (1, 3, 50),
    "top_p": (0.05, 0.5, 0.95),
    "min_p": (0.01, 0.3, 1.0),
    "typical_p": (0.1, 0.5, 0.95),
    "epsilon_cutoff": (3e-4, 0.04, 0.6),
    "eta_cutoff": (3e-4, 0.04, 0.6),
}
ROUNDING = 2e-6


def theirs(row, temperature, chosen):
    processors = [hf.TemperatureLogitsWarper(temperature)] + [
        warper(chosen[name]) for name, warper in WARPERS.items() if name in chosen
    ]
    return torch.softmax(LogitsProcessorList(processors)(None, row[None].clone())[0], -1)


def ours(row, temperature, chosen):
    if "top_h" in chosen:
        chosen = chosen | {"top_h_variant": "hugging_face"}
    wish = RowSettings(Fixed(temperature), Filters(**chosen))
    return shape(row[None], Rows([wish])).log_probabilities()[0].exp()


def margin(row, temperature, chosen):
    """How near any filter is to deciding otherwise, by the oracle."""
    renamed = {"top_h_hugging_face" if name == "top_h" else name: value for name, value in chosen.items()}
    return oracle.step(row.numpy(), temperature, **renamed).margin


def agree(row, temperature, chosen):
    """Equal distributions; False where the sets differ, which float32's rounding must excuse.

    Which of several equally likely tokens stay, Hugging Face leaves to an unstable sort: they count as the same.
    """
    mine, expected = ours(row, temperature, chosen), theirs(row, temperature, chosen)
    different = (mine > 0) != (expected > 0)
    if bool(different.any()) and len(row[different].unique()) == 1:
        mine, expected = mine.sort().values, expected.sort().values
    if torch.equal(mine > 0, expected > 0):
        assert torch.allclose(mine, expected, atol=1e-6, rtol=1e-4)
        return True
    assert margin(row, temperature, chosen) < ROUNDING, (row, temperature, chosen)
    return False


@pytest.mark.parametrize("name", WARPERS)
@pytest.mark.parametrize("vocab", [12, 250])
def test_a_filter_equals_hugging_faces_on_every_edge_row(name, vocab):
    """Of large logits Hugging Face divides first and subtracts the maximum after, which rounds or overflows: T is 1."""
    for value in VALUES[name]:
        for key, row in edge_rows(vocab).items():
            agree(row, 1.0, {name: value})
            if key not in ("largest float", "far from zero"):
                agree(row, 0.7, {name: value})


@pytest.mark.parametrize("name", WARPERS)
def test_a_filter_equals_hugging_faces_on_random_rows(name):
    generator, different = torch.Generator().manual_seed(len(name)), 0
    for i in range(240):
        row = torch.randn((5, 100, 2000)[i % 3], generator=generator) * (0.1, 1.0, 5.0)[i // 3 % 3]
        row = row.round(decimals=1) if i % 5 == 0 else row
        value = VALUES[name][i % 3] if name == "top_k" else float(torch.rand((), generator=generator)) * 0.98 + 0.01
        different += not agree(row, (0.3, 1.0, 1.7)[i // 9 % 3], {name: value})
    assert different <= 4


def test_chains_equal_hugging_faces_in_its_order():
    generator, different = torch.Generator().manual_seed(3), 0
    for i in range(400):
        row = torch.randn((20, 300, 3000)[i % 3], generator=generator) * (0.5, 2.0, 6.0)[i // 3 % 3]
        chosen = {
            name: values[int(torch.randint(3, (), generator=generator))]
            for name, values in VALUES.items()
            if torch.rand((), generator=generator) < 0.4
        }
        different += not agree(row, (0.5, 1.0, 1.4)[i % 3], chosen)
    assert different <= 8


def test_generates_own_list_has_the_order_of_this_test():
    config = GenerationConfig(
        do_sample=True, temperature=0.8, top_h=0.4, top_k=9, top_p=0.9, min_p=0.1, typical_p=0.8, epsilon_cutoff=0.1,
        eta_cutoff=0.1, repetition_penalty=1.2,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        processors = Bare()._get_logits_processor(config, input_ids_seq_length=3)
    kinds = [hf.RepetitionPenaltyLogitsProcessor, hf.TemperatureLogitsWarper, *WARPERS.values()]
    assert [type(one) for one in processors] == kinds


class Bare(GenerationMixin):
    """What `_get_logits_processor` reads of a model."""

    class config:
        is_encoder_decoder = False


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 4.0])
def test_the_repetition_penalty_equals_hugging_faces(penalty):
    generator = torch.Generator().manual_seed(1)
    for row in [*edge_rows().values(), torch.randn(12, generator=generator) * 4]:
        ids = torch.randint(12, (1, 9), generator=generator)
        expected = hf.RepetitionPenaltyLogitsProcessor(penalty)(ids, row[None].clone())[0]
        history = adaptive.History(ids[0, :4].tolist(), ids[0, 4:].tolist())
        rows = Rows([RowSettings(penalties=Penalties(repetition=penalty), history=history)])
        got = shape(row[None], rows).changed[0]
        assert torch.equal(got, expected)
