"""Policies with state: the controller, mirostat and adaptive-p, against their formulas and other programs' code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive import AdaptiveP, EntropyFeedback, Filters, Mirostat, Rows, RowSettings
from adaptive.entropy import measure
from adaptive.policies import Outcome
from adaptive.sampler import shape
from tests import oracle
from tests.adaptive.cases import A, infos, random_logits
from tests.peers import LlamaAdaptiveP

LN2 = math.log(2)


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of small steps: on a busy machine threads would wait for each other at every one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outcome(measured: float) -> Outcome:
    return Outcome(*(torch.tensor([value], dtype=torch.float64) for value in (measured, measured, measured, measured)))


class Loop:
    """One controller by itself: what it decides, and what it makes of a measurement."""

    def __init__(self, policy):
        self.policy = policy
        self.parameters = policy.columns([policy], torch.device("cpu"))
        self.state = {k: torch.tensor([v], dtype=torch.float64) for k, v in policy.initial_state().items()}

    @property
    def temperature(self):
        statistics = measure(A[None])
        return self.policy.control(statistics, self.parameters, self.state).temperature.item()

    def absorb(self, measured):
        self.state = self.policy.absorb(self.parameters, self.state, outcome(measured))


controllers = st.builds(
    EntropyFeedback,
    setpoint=st.floats(0.1, 3.0),
    half_life=st.floats(0.5, 50.0),
    kp=st.floats(0.0, 2.0),
    ki=st.floats(0.0, 0.5),
    base_temperature=st.floats(0.3, 1.8),
    min_temperature=st.sampled_from([0.1, 0.25]),
    max_temperature=st.sampled_from([2.0, 5.0]),
)


@settings(max_examples=60, deadline=None)
@given(controllers, st.lists(st.floats(0.0, 6.0), min_size=1, max_size=40))
def test_entropy_feedback_is_the_controller_of_its_formula(policy, measured):
    """Mean with exponential weights, sum of errors with anti-windup, T = base exp(kp e + ki sum)."""
    expected = oracle.Feedback(
        policy.setpoint, policy.half_life, policy.kp, policy.ki, policy.base_temperature, policy.min_temperature,
        policy.max_temperature,
    )  # fmt: skip
    loop = Loop(policy)
    assert loop.temperature == pytest.approx(policy.base_temperature)
    for value in measured:
        loop.absorb(value)
        expected.absorb(value)
        assert loop.state["mean"].item() == pytest.approx(expected.mean, rel=1e-9, abs=1e-12)
        assert loop.state["integral"].item() == pytest.approx(expected.integral, rel=1e-9, abs=1e-9)
        assert loop.temperature == pytest.approx(expected.temperature, rel=1e-9)


def test_the_mean_has_forgotten_half_after_its_half_life():
    loop = Loop(EntropyFeedback(half_life=8.0))
    for _ in range(400):
        loop.absorb(1.0)
    for _ in range(8):
        loop.absorb(0.0)
    assert loop.state["mean"].item() == pytest.approx(0.5, abs=1e-9)


def test_the_sum_stands_still_at_a_bound_and_so_leaves_it_at_once():
    """By hand: e = 1, kp 0, ki .5, T = exp(.5 sum) with max 2, i.e. sums up to 2 ln 2 = 1.386: only the first adds."""
    loop = Loop(EntropyFeedback(setpoint=2.0, kp=0.0, ki=0.5, half_life=1e-6))
    sums = []
    for _ in range(20):
        loop.absorb(1.0)
        sums.append(loop.state["integral"].item())
    assert sums == [1.0] * 20
    loop.absorb(3.0)
    assert loop.state["integral"].item() == pytest.approx(0.0)
    assert loop.temperature == pytest.approx(1.0)


def held(policies, measures, steps, spread):
    """The mean of each policy's measure over 16 seeds and the steps from 100 on, all in one batch."""
    rows = Rows([RowSettings(policy, seed=seed) for policy in policies for seed in range(1, 17)])
    seen = []
    for step in range(steps):
        batch = infos(random_logits(16, 100, spread(step), step).repeat(len(policies), 1), rows)
        seen.append([measures[i // 16](info) for i, info in enumerate(batch)])
    return np.array(seen[100:]).reshape(-1, len(policies), 16).mean((0, 2))


def final_entropy(info):
    return info.final_entropy


def surprisal(info):
    return -info.logprob


def renormalised_surprisal(info):
    return -info.filtered_logprob


def test_entropy_feedback_holds_its_setpoint_on_a_process_of_changing_logits():
    """Rows whose spread wanders; over tokens 100 to 300 of 16 seeds the mean lies within 5 % of the setpoint. That of
    surprisal has a standard error of about 1.5 % there."""
    setpoints = [1.0, 1.5, 2.2]
    policies = [EntropyFeedback(s, m, base_temperature=0.8) for m in ("final_entropy", "surprisal") for s in setpoints]
    means = held(policies, [final_entropy] * 3 + [surprisal] * 3, 300, lambda step: 4.5 + 0.7 * math.sin(step / 15))
    assert means == pytest.approx(setpoints * 2, rel=0.05)


def test_mirostat_holds_the_surprisal_that_it_is_told_to():
    """By each measure; the rows' own entropy is about 2 nats, and their most likely tokens' surprisal .9."""
    policies = [Mirostat(1.4, 0.1, surprise=surprise) for surprise in ("model", "renormalized")]
    assert held(policies, [surprisal, renormalised_surprisal], 250, lambda _: 3.0) == pytest.approx(1.4, rel=0.05)


def test_the_two_surprises_move_mu_in_opposite_directions_on_one_and_the_same_step():
    """(.4, .3, .3) with mu = 1.0 nats keeps the first alone: surprisal .916 in the model, 0 among what is left. With
    tau = .5 the first lies above it and mu falls; the second lies below it and mu rises."""
    logits = torch.tensor([[0.4, 0.3, 0.3]]).log()
    moved = {}
    for surprise in ("model", "renormalized"):
        rows = Rows([RowSettings(Mirostat(0.5, 0.1, 1.0, surprise))])
        info = infos(logits, rows)[0]
        assert info.token_id == 0
        moved[surprise] = info.state[0] - 1.0
    assert moved["model"] == pytest.approx(-0.1 * (-math.log(0.4) - 0.5), abs=1e-6)
    assert moved["renormalized"] == pytest.approx(0.05, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 5.0), st.floats(0.0, 1.0), st.floats(0.3, 1.8))
def test_mirostat_is_the_algorithm_of_llama_cpp_and_of_the_paper(seed, tau_bits, eta, temperature):
    """In bits as they count: truncate at -log2 p > mu, keep the most likely, then mu -= eta (observed - tau)."""
    policies = [Mirostat(tau_bits * LN2, eta, None, s, temperature) for s in ("model", "renormalized")]
    rows = Rows([RowSettings(policy, seed=seed) for policy in policies])
    mu = [2 * tau_bits] * 2
    for step in range(4):
        row = random_logits(1, 60, 2.5, seed + step)
        p_model = np.exp(oracle.log_softmax(row[0].double().numpy()))
        p = np.exp(oracle.log_softmax(row[0].double().numpy() / temperature))
        for i, info in enumerate(infos(row.expand(2, -1), rows)):
            kept = (-np.log2(p) <= mu[i]) | (p == p.max())
            if np.abs(-np.log2(p) - mu[i]).min() < 1e-4:
                return  # rounding decides
            assert info.effective_vocab_size == kept.sum()
            observed = (p_model, p / p[kept].sum())[i][info.token_id]
            mu[i] -= eta * (-math.log2(observed) - tau_bits)
            assert info.state[0] / LN2 == pytest.approx(mu[i], abs=1e-4)


def test_mirostat_composes_with_the_filters_that_come_after_it():
    info = infos(A[None], Rows([RowSettings(Mirostat(initial_mu=2.0), Filters(top_k=2))]))[0]
    assert (info.effective_vocab_size, info.top_k) == (2, 2)
    assert infos(A[None], Rows([RowSettings(Mirostat(initial_mu=1.0), Filters(top_k=2))]))[0].effective_vocab_size == 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.99),
    st.sampled_from([Filters(), Filters(min_p=0.05), Filters(top_k=8)]),
)
def test_adaptive_p_is_the_sampler_of_llama_cpp(seed, target, decay, chosen):
    theirs = LlamaAdaptiveP(target, decay)
    rows = Rows([RowSettings(AdaptiveP(target, decay, 0.9), chosen, seed=seed)])
    for step in range(6):
        row = random_logits(1, 40, 2.0, seed + step)
        before = oracle.step(row[0].numpy(), 0.9, top_k=chosen.top_k, min_p=chosen.min_p)
        if before.margin < 1e-5:
            return  # rounding decides
        expected = theirs.distribution(np.exp(before.log_q))
        got = shape(row, rows)
        assert got.probabilities[0].numpy() == pytest.approx(expected, abs=1e-5)
        info = infos(row, rows)[0]
        assert info.final_entropy == pytest.approx(oracle.entropy(np.log(expected[expected > 0])), abs=1e-4)
        assert info.filtered_logprob == pytest.approx(math.log(expected[info.token_id]), abs=1e-4)
        assert info.top_token_prob == pytest.approx(expected.max(), abs=1e-5)
        theirs.accept(math.exp(before.log_q[info.token_id]))
        assert info.state == pytest.approx((theirs.weighted_sum, theirs.total_weight), rel=1e-5, abs=1e-6)


def test_adaptive_p_by_hand():
    """Target .3 on (.1, .2, .3, .4): at first t = .3, distances 2/3, 1/3, 0, 1/3: logits 2.333, 4.167, 5, 4.167."""
    logits = np.array([5 - 10 * d * d / (1 + d) for d in (2 / 3, 1 / 3, 0.0, 1 / 3)])
    p = shape(A[None], Rows([RowSettings(AdaptiveP(0.3))])).probabilities[0].numpy()
    assert p == pytest.approx(np.exp(logits) / np.exp(logits).sum(), abs=1e-6)
