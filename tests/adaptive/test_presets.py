"""Presets give the numbers that other programs' users have there."""

import math

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TopHLogitsWarper

from adaptive import PRESETS, Rows, RowSettings
from adaptive.sampler import shape
from tests import oracle, peers
from tests.adaptive.cases import INF, control, infos

LN2 = math.log(2)
ROWS = [
    torch.randn(vocab, generator=torch.Generator().manual_seed(i)) * spread
    for i, (vocab, spread) in enumerate((v, s) for v in (50, 3000) for s in (0.01, 0.5, 1.5, 2.5, 4.0, 7.0, 12.0))
]


def measured(row):
    log_p = oracle.log_softmax(row.numpy().astype(np.float64))
    return oracle.entropy(log_p), oracle.varentropy(log_p)


def preset_temperature(name, row):
    return control(PRESETS[name].policy, row).temperature.item()


def test_dynamic_temperature_of_llama_cpp():
    """min_T + (max_T - min_T) (H / ln size)^exponent with temp .8, range .5, exponent 1, before any filter."""
    for row in ROWS:
        h, _ = measured(row)
        expected = 0.3 + (1.3 - 0.3) * (h / math.log(len(row))) ** 1.0
        assert preset_temperature("llamacpp.dynatemp", row) == pytest.approx(expected, rel=1e-5)


def test_dynamic_temperature_of_text_generation_webui():
    """Its maximal entropy is ln of the scores above -inf."""
    for row in ROWS:
        row = row.masked_fill(torch.arange(len(row)) % 3 == 0, -INF)
        h, _ = measured(row)
        expected = 0.5 + (1.5 - 0.5) * h / math.log(int(row.isfinite().sum()))
        assert preset_temperature("ooba.dynatemp", row) == pytest.approx(expected, rel=1e-5)


def test_edt_of_the_paper_and_of_qr_sampler():
    for row in ROWS:
        h, _ = measured(row)
        assert preset_temperature("edt.paper", row) == pytest.approx(max(0.6 * 0.8 ** (0.1 / h), 0.01), rel=1e-5)
        expected = oracle.clip(0.8 * (h / math.log(len(row))) ** 0.5, 0.1, 2.0)
        assert preset_temperature("qr.edt", row) == pytest.approx(expected, rel=1e-5)
    assert PRESETS["edt.paper"].filters.top_p == 0.95


def test_mirostat_counts_in_their_bits():
    for name, tau_bits, eta, temperature in (("mirostat2.paper", 3, 1.0, 1.0), ("mirostat2.llamacpp", 5, 0.1, 0.8)):
        preset = PRESETS[name]
        assert preset.policy.initial_state()["mu"] / LN2 == pytest.approx(2 * tau_bits)
        info = infos(ROWS[4][None], Rows([RowSettings(preset.policy, preset.filters)]))[0]
        observed = info.logprob if name.endswith("paper") else info.filtered_logprob
        expected = 2 * tau_bits - eta * (-observed / LN2 - tau_bits)
        assert info.state[0] / LN2 == pytest.approx(expected, abs=1e-5)
        assert info.temperature == temperature


def two_level(first, rest, vocab):
    """`first` on one token, the others alike: any entropy and varentropy that two levels can have."""
    return torch.tensor([first, *[rest] * (vocab - 1)])


def test_entropix_in_every_corner():
    """Against a transcription in bits, attention terms at 0; also the plain temperature between the corners."""
    rows = [*ROWS, two_level(20.0, 0.0, 50), torch.zeros(64), two_level(11.0, 0.0, 50000), two_level(4.0, 0.0, 3000)]
    rows += [two_level(0.0, -b, v) for b in (1.0, 3.0, 6.0, 9.0) for v in (5, 400, 20_000)]
    seen = set()
    for row in rows:
        h, v = measured(row)
        bits, bits2 = h / LN2, v / LN2**2
        if min(abs(bits - 0.1), abs(bits - 5.0), abs(bits2 - 0.1), abs(bits2 - 5.0)) < 1e-3:
            continue
        temperature, top_k, top_p = peers.entropix(bits, bits2)
        decided = control(PRESETS["entropix"].policy, row)
        assert decided.temperature.item() == pytest.approx(temperature, rel=1e-4), (bits, bits2)
        assert decided.top_k.item() == top_k
        if top_k > 1:
            assert decided.top_p.item() == top_p
        seen.add((bits < 0.1, bits > 5.0, bits2 < 0.1, bits2 > 5.0))
    assert seen == {
        (True, False, True, False), (False, True, True, False), (False, False, False, True),
        (False, True, False, True), (False, False, False, False), (False, True, False, False),
    } | {corner for corner in seen if corner in {(True, False, False, False), (False, False, True, False)}}  # fmt: skip


def test_top_h_of_hugging_face_and_of_the_paper():
    for row in ROWS:
        preset = PRESETS["top_h.hf"]
        got = shape(row[None], Rows([RowSettings(preset.policy, preset.filters)])).probabilities[0]
        expected = TopHLogitsWarper(0.4)(None, row[None].clone()).softmax(-1)[0]
        assert torch.allclose(got, expected, atol=1e-6)
        preset = PRESETS["top_h.paper"]
        step = oracle.step(row.numpy(), 1.0, top_h=0.4)
        got = shape(row[None], Rows([RowSettings(preset.policy, preset.filters)])).probabilities[0]
        assert step.margin < 1e-5 or got.numpy() == pytest.approx(np.exp(step.log_q), abs=1e-6)


def test_the_presets_are_those_of_the_catalogue():
    assert set(PRESETS) == {
        "llamacpp.dynatemp", "ooba.dynatemp", "edt.paper", "qr.edt", "mirostat2.paper", "mirostat2.llamacpp",
        "entropix", "top_h.paper", "top_h.hf",
    }  # fmt: skip
    assert all(preset.summary.endswith(".") for preset in PRESETS.values())
