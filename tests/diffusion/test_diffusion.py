"""Schedule, losses and sampler against formulas and against diffusers' schedulers."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from xmdpt_cli.diffusion import Guided, Schedule, sample
from xmdpt_cli.diffusion.guidance import classifier_free_guidance, guidance_scale
from xmdpt_cli.diffusion.loss import discretised_log_likelihood, loss_terms
from xmdpt_cli.diffusion.schedule import at
from xmdpt_cli.diffusion.solvers import timestep_list
from xmdpt_cli.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")]
)
def test_schedule_is_diffusers(kind: str, theirs: str) -> None:
    scheduler = DDPMScheduler(1000, 1e-4, 2e-2, theirs)
    torch.testing.assert_close(
        Schedule(kind).alpha_bar.float(), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-9
    )


def test_posterior_by_bayes() -> None:
    """Mean and variance of q(x_{t-1} | x_t, x_0) from the product of the two Gaussians."""
    schedule, t = Schedule(), 400
    beta, before = schedule.beta[t], schedule.alpha_bar[t - 1]
    precision = (1 - beta) / beta + 1 / (1 - before)
    assert float(schedule.posterior_variance[t]) == pytest.approx(float(1 / precision), rel=1e-9)
    of_x0, of_xt = schedule.weight_of_clean, schedule.weight_of_noisy
    assert float(of_xt[t]) == pytest.approx(float((1 - beta).sqrt() / beta / precision), rel=1e-9)
    assert float(of_x0[t]) == pytest.approx(float(before.sqrt() / (1 - before) / precision))
    assert float(schedule.posterior_log_variance[0]) == pytest.approx(
        math.log(float(schedule.posterior_variance[1]))
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_target_and_back(prediction: str) -> None:
    schedule = Schedule("cosine", prediction)
    rng = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 4, 2, 2, generator=rng) for _ in range(2))
    t = torch.tensor([1, 300, 600, 900])
    noisy = schedule.add_noise(clean, noise, t)
    target, error = schedule.target(clean, noise, t), torch.full_like(clean, 0.25)
    alpha, sigma = (at(table, t, clean) for table in (schedule.alpha_bar.sqrt(), schedule.sigma))
    found, off = (
        (noisy - sigma * out) / alpha if prediction == "epsilon" else alpha * noisy - sigma * out
        for out in (target, target + error)
    )
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=1e-3)
    expected = at(schedule.clean_per_error, t, clean) * error
    torch.testing.assert_close(found - off, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_perfect_prediction_has_no_loss_but_the_unavoidable(prediction: str) -> None:
    schedule = Schedule("linear", prediction)
    rng = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 4, 4, generator=rng) for _ in range(2))
    t = torch.tensor([5, 500, 995])
    target = schedule.target(clean, noise, t)
    # variance channels -1: exactly the posterior variance, so the KL is zero
    out = torch.cat([target, -torch.ones_like(target)], dim=1)
    mse, vb = loss_terms(out, clean, noise, t, schedule)
    torch.testing.assert_close(mse, torch.zeros(3))
    torch.testing.assert_close(vb, torch.zeros(3), atol=1e-5, rtol=0)


def bound_in_float64(
    out: Tensor, clean: Tensor, noise: Tensor, t: Tensor, prediction: str
) -> Tensor:
    """Improved DDPM sec. 3.1 from its definitions, in bits per dimension (N,)."""
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    bar = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    posterior = beta * (1 - before) / (1 - bar)

    def pick(table: Tensor) -> Tensor:
        return table[t].reshape(-1, 1, 1, 1)

    noisy = pick(bar.sqrt()) * clean + pick((1 - bar).sqrt()) * noise
    guess, v = out[:, :4].detach(), out[:, 4:]
    if prediction == "epsilon":
        guess = (noisy - pick((1 - bar).sqrt()) * guess) / pick(bar.sqrt())
    else:
        guess = pick(bar.sqrt()) * noisy - pick((1 - bar).sqrt()) * guess
    of_clean = pick(beta * before.sqrt() / (1 - bar))
    rest = pick((1 - before) * (1 - beta).sqrt() / (1 - bar)) * noisy
    true, mean = of_clean * clean + rest, of_clean * guess + rest
    true_log = pick(torch.cat([posterior[1:2], posterior[1:]]).log())
    log = (v + 1) / 2 * pick(beta.log()) + (1 - v) / 2 * true_log
    kl = 0.5 * (log - true_log - 1 + (true_log - log).exp() + (true - mean) ** 2 / log.exp())

    def cdf(x: Tensor) -> Tensor:
        z = (x - mean) / (0.5 * log).exp()
        return 0.5 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (z + 0.044715 * z**3)))

    low, high = cdf(clean - 1 / 255), cdf(clean + 1 / 255)
    low = torch.where(clean < -0.999, torch.zeros_like(low), low)
    high = torch.where(clean > 0.999, torch.ones_like(high), high)
    nll = -(high - low).clamp(min=1e-12).log()
    terms = torch.where((t == 0).reshape(-1, 1, 1, 1), nll, kl)
    return terms.mean(dim=(1, 2, 3)) / math.log(2)


@pytest.mark.parametrize(
    ("t", "prediction"),
    [*((t, p) for t in (0, 1, 2, 10) for p in ("epsilon", "v")), (999, "epsilon")],
)
def test_the_bound_keeps_its_digits(t: int, prediction: str) -> None:
    """Value and gradient in float32 against float64: as differences of float32 numbers they were
    off by 5e-4 at t = 0 and 1, by 0.3 at t = 999."""
    schedule, rng = Schedule("linear", prediction), torch.Generator().manual_seed(t)
    clean, noise, error, v = (torch.randn(4, 4, 16, 16, generator=rng) for _ in range(4))
    times = torch.full((4,), t)
    target = schedule.target(clean, noise, times)
    out = torch.cat([target + 0.3 * error, 0.5 * v], dim=1).requires_grad_()
    _, vb = loss_terms(out, clean, noise, times, schedule)
    vb.sum().backward()  # type: ignore[no-untyped-call]
    exact = out.detach().double().requires_grad_()
    # the reference knows the error from the target in float64
    expected = bound_in_float64(exact, clean.double(), noise.double(), times, prediction)
    expected.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(vb.double(), expected, rtol=2e-6, atol=0)
    assert out.grad is not None
    assert exact.grad is not None
    size = float(exact.grad.abs().max())
    assert size > 0
    torch.testing.assert_close(out.grad.double(), exact.grad, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_schedules_noise_level_has_all_its_digits(kind: str) -> None:
    """1 - alpha_bar by exact fractions, where alpha_bar is close to 1."""
    schedule, rest = Schedule(kind), Fraction(1)
    for t in range(3):
        rest *= 1 - Fraction(float(schedule.beta[t]))
        assert float(schedule.sigma[t]) == pytest.approx(math.sqrt(1 - rest), rel=1e-15)


def test_discretised_likelihood_sums_to_one() -> None:
    bins = (torch.arange(256) / 127.5 - 1).reshape(1, 256, 1, 1)
    log = discretised_log_likelihood(bins, bins - 0.3, torch.tensor(math.log(0.2)))
    assert float(log.exp().sum()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 10, 30, 50, 1000])
def test_timestep_list_is_numpys(steps: int) -> None:
    expected = np.round(np.linspace(0, 999, steps)).astype(int)[::-1].tolist()
    if steps > 1:
        assert timestep_list(steps) == expected
    else:
        assert timestep_list(1) == [999]  # a single step starts from noise
    with pytest.raises(ConfigError):
        timestep_list(0)


def test_the_published_list_differs_where_the_docs_say() -> None:
    """Published: a float stride is added again and again (docs/published-checkpoints.md)."""

    def published(steps: int) -> list[int]:
        place, listed = 0.0, []
        for _ in range(steps):
            listed.append(round(place))
            place += 999 / max(1, steps - 1)
        return listed

    apart = {}
    for steps in range(1, 1001):
        pairs = zip(published(steps), reversed(timestep_list(steps)), strict=True)
        found = [abs(a - b) for a, b in pairs if a != b]
        if found:
            apart[steps] = found
    assert len(apart) == 284
    assert apart.pop(1) == [999]
    assert {away for found in apart.values() for away in found} == {1}
    assert max(map(len, apart.values())) == 19
    docs = (Path(__file__).parents[2] / "docs/published-checkpoints.md").read_text()
    listed = ", ".join(map(str, [steps for steps in apart if steps <= 100][:-1]))
    assert f"these are {listed} and 91" in " ".join(docs.split())
    assert not {10, 20, 25, 50, 100, 250, 500} & set(apart)


def test_guidance_follows_equation_6() -> None:
    assert guidance_scale(1000, 2.0, 1.0) == pytest.approx(1.0)
    assert guidance_scale(500, 2.0, 1.0) == pytest.approx(1.5)
    assert guidance_scale(0, 2.0, 1.0) == pytest.approx(2.0)
    # with power 0.01 the scale is at least 1.989 at every step
    assert min(guidance_scale(t, 2.0, 0.01) for t in timestep_list(50)) >= 1.989


def gaussian_network(x: Tensor, t: Tensor, c: Tensor, keep: Tensor) -> Tensor:
    """The exact noise prediction if the data are N(m, s^2): m = 0.5 where conditioned, s = 0.3."""
    schedule = Schedule()
    alpha_bar = schedule.alpha_bar[t].float().reshape(-1, 1, 1, 1)
    mean = 0.5 * keep.float().reshape(-1, 1, 1, 1)
    variance = alpha_bar * 0.09 + 1 - alpha_bar
    eps = (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance
    return torch.cat([eps, torch.zeros_like(eps)], dim=1)


GAUSSIAN = Guided(gaussian_network)


def test_sampling_a_gaussian_gives_the_gaussian() -> None:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 4, 8, 8, generator=rng)
    out = sample(GAUSSIAN, noise, torch.ones(64, 1), steps=200, guidance=1.0)
    assert float(out.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(out.std()) == pytest.approx(0.3, abs=0.01)


def test_1000_steps_are_diffusers_ddim() -> None:
    """With every timestep listed the published list and a constant stride are the same thing."""
    rng = torch.Generator().manual_seed(0)
    x = noise = torch.randn(2, 4, 4, 4, generator=rng)
    scheduler = DDIMScheduler(1000, 1e-4, 2e-2, "linear", clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(1000)
    c = torch.ones(2, 1)
    for t in scheduler.timesteps:
        times, every = t.expand(2), torch.ones(2, dtype=torch.bool)
        both = (gaussian_network(x, times, c, keep)[:, :4] for keep in (every, ~every))
        conditional, unconditional = both
        scale = guidance_scale(int(t), 2.0, 0.5)
        eps = unconditional + scale * (conditional - unconditional)
        x = scheduler.step(eps, t, x, eta=0.0).prev_sample
    ours = sample(GAUSSIAN, noise, c, steps=1000, guidance=2.0, power=0.5)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


def test_a_scale_of_one_computes_no_unconditional_branch() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor, c: Tensor, keep: Tensor) -> Tensor:
        seen.append(keep)
        return gaussian_network(x, t, c, keep)

    model = Guided(network)
    sample(model, torch.zeros(2, 4, 4, 4), torch.ones(2, 1), steps=3, guidance=1.0)
    assert [keep.tolist() for keep in seen] == [[True, True]] * 3
    seen.clear()
    sample(model, torch.zeros(2, 4, 4, 4), torch.ones(2, 1), steps=3, guidance=2.0)
    assert [keep.tolist() for keep in seen] == [[True, True, False, False]] * 3


def test_guidance_by_its_formula() -> None:
    conditional, unconditional = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 1.0])
    found = classifier_free_guidance(conditional, unconditional, 1.5)
    assert found.tolist() == [4.0, -2.0]


def test_unknown_names_are_refused() -> None:
    for spacing in (None, "linspace"):  # given or the solver's own
        with pytest.raises(ConfigError, match="solver"):
            sample(
                GAUSSIAN, torch.zeros(1, 4, 4, 4), torch.ones(1, 1), solver="euler",
                spacing=spacing,
            )  # fmt: skip
    with pytest.raises(ConfigError, match="power"):
        sample(GAUSSIAN, torch.zeros(1, 4, 4, 4), torch.ones(1, 1), power=0.0)
    with pytest.raises(ConfigError, match="schedule"):
        Schedule("round")
    with pytest.raises(ConfigError, match="prediction"):
        Schedule("linear", "x0")
