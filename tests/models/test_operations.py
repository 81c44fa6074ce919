"""Walls 17 to 20 against pencil, published figures and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from models import operations
from models.dimensions import ImpossibleValue, UnknownValue
from zoo.units import Q


def usd(value):
    return Q(value, "USD")


def years(value):
    return Q(value, "yr")


# ------------------------------------------------------------------------------------------------------ wall 17


def test_straight_line_over_the_whole_life_is_the_price_less_the_residual():
    assert operations.capital_cost(usd(30000.0), 8, years(4.0), years(4.0), 0.1).m_as("USD") == pytest.approx(216000.0)


def test_annuity_of_a_textbook():
    """100,000 at 8 % over 5 years: a capital recovery factor of 0.250456."""
    payment = operations.annualised(usd(1e5), Q(0.08, "1/yr"), years(5.0), 0.0).m_as("USD/yr")
    assert payment == pytest.approx(25045.65, abs=0.01)


@given(st.floats(0.001, 0.4), st.integers(1, 20), st.floats(0.0, 0.9))
def test_annuity_pays_the_price_back(interest, life, residual):
    payment = operations.annualised(usd(1000.0), Q(interest, "1/yr"), years(float(life)), residual).m_as("USD/yr")
    present = sum(payment / (1 + interest) ** year for year in range(1, life + 1)) + 1000 * residual / (1 + interest) ** life
    assert present == pytest.approx(1000.0, rel=1e-9)


def test_annuity_without_interest_is_the_straight_line():
    payment = operations.annualised(usd(1000.0), Q(np.array([0.0, 1e-9]), "1/yr"), years(4.0), 0.2).m_as("USD/yr")
    assert payment == pytest.approx([200.0, 200.0], rel=1e-6)


@given(st.lists(st.floats(0.0, 1e9), min_size=1, max_size=6))
def test_total_is_the_sum_of_its_parts(parts):
    assert operations.total_cost(*map(usd, parts)).m_as("USD") == pytest.approx(sum(parts))


def test_a_total_of_nothing_is_impossible():
    with pytest.raises(ImpossibleValue):
        operations.total_cost()


def test_rent_energy_upkeep_and_token():
    assert operations.rental_cost(Q(98.32, "USD/h"), 2, Q(1.0, "day")).m_as("USD") == pytest.approx(4719.36)
    assert operations.energy_cost(Q(1.0, "MWh"), Q(0.08, "USD/kWh")).m_as("USD") == pytest.approx(80.0)
    assert operations.maintenance_cost(usd(1000.0), 10, Q(5.0, "percent/yr"), years(2.0)).m_as("USD") == pytest.approx(1000.0)
    assert operations.cost_per_token(Q(3.6, "USD/h"), Q(1000.0, "token/s")).m_as("USD/token") == pytest.approx(1e-6)


# ------------------------------------------------------------------------------------------------------ wall 18


def test_dgx_h100_draws_its_nameplate():
    """8 accelerators of 700 W are 5.6 kW of 10.2 kW: the host's share is 4.6 / 10.2."""
    assert operations.node_power(8, Q(700.0, "W"), 1.0, 4.6 / 10.2).m_as("kW") == pytest.approx(10.2)


def test_draw_runs_from_idle_to_full():
    assert list(operations.draw_fraction(np.array([0.0, 0.5, 1.0]), 0.2)) == pytest.approx([0.2, 0.6, 1.0])


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e4))
def test_energy_is_power_times_time(power, hours):
    assert operations.energy(Q(power, "W"), Q(hours, "h")).m_as("Wh") == pytest.approx(power * hours)


def test_embodied_carbon_of_a_year():
    assert operations.embodied_carbon(Q(164.0, "kgCO2e"), 8, years(4.0), years(1.0)).m_as("kgCO2e") == pytest.approx(328.0)


def test_off_site_water_follows_the_meter():
    """1000 kWh of IT at PUE 1.2: 1800 L on site, 1200 x 3.1 L at the power stations."""
    used = operations.water(Q(1000.0, "kWh"), Q(1.8, "L/kWh"), 1.2, Q(3.1, "L/kWh")).m_as("L")
    assert used == pytest.approx(1800 + 3720)


def test_pue_below_one_is_impossible():
    with pytest.raises(ImpossibleValue):
        operations.carbon(Q(1.0, "Wh"), 0.9, Q(1.0, "gCO2e/Wh"))


# ------------------------------------------------------------------------------------------------------ wall 19


def test_adam_checkpoint_is_fourteen_bytes_a_parameter():
    size = operations.checkpoint_bytes(405e9, Q(2.0, "byte"), operations.optimizer_bytes("adamw"))
    assert size.m_as("TB") == pytest.approx(5.67)


def test_unlisted_optimizer_is_unknown():
    with pytest.raises(UnknownValue, match="adamw"):
        operations.optimizer_bytes("adam_w")


def test_storage_caps_the_writers():
    times = operations.write_time(Q(1.0, "TB"), np.array([10.0, 1000.0]), Q(2.0, "GB/s"), Q(100.0, "GB/s")).m_as("s")
    assert list(times) == pytest.approx([50.0, 10.0])


def test_asynchronous_checkpoint_stalls_only_for_what_does_not_fit():
    def stall(interval):
        return operations.asynchronous_stall(Q(5.0, "s"), Q(60.0, "s"), Q(interval, "s")).m_as("s")

    assert stall(600.0) == 5.0 and stall(65.0) == 5.0 and stall(45.0) == 25.0


# ------------------------------------------------------------------------------------------------------ wall 20


def test_abadis_example():
    """Abadi et al. (2016), section 3.2: q = 0.01, sigma = 4, delta = 1e-5, 10,000 steps: epsilon about 1.26."""
    assert operations.privacy_loss(4.0, 0.01, 10000, 1e-5) == pytest.approx(1.26, abs=0.005)


@pytest.mark.parametrize(("sigma", "epochs", "epsilon"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)])
def test_tensorflow_privacys_published_mnist_table(sigma, epochs, epsilon):
    """MNIST, 60,000 samples, batches of 256, delta = 1e-5: the table of the library's tutorial."""
    got = operations.privacy_loss(sigma, 256 / 60000, epochs * 60000 / 256, 1e-5)
    assert got == pytest.approx(epsilon, rel=5e-3)


@pytest.mark.parametrize("order", [2, 5, 17])
def test_renyi_divergence_equals_its_integral(order):
    """E over N(0, s^2) of ((1 - q) + q N(1, s^2)/N(0, s^2))^order, integrated numerically."""
    q, sigma = 0.02, 1.5

    def integrand(z):
        return stats.norm.pdf(z, 0, sigma) * ((1 - q) + q * math.exp((2 * z - 1) / (2 * sigma**2))) ** order

    moment, _ = integrate.quad(integrand, -40, 80, limit=500, points=[0, order])
    divergences = operations._renyi_epsilon(sigma, q)
    index = list(operations._ORDERS).index(order)
    assert divergences[index] == pytest.approx(math.log(moment) / (order - 1), rel=1e-7)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 10.0), st.floats(0.0005, 0.05), st.integers(100, 20000))
def test_noise_multiplier_keeps_its_promise(epsilon, rate, steps):
    sigma = operations.noise_multiplier(epsilon, 1e-6, rate, steps)
    spent = operations.privacy_loss(sigma, rate, steps, 1e-6)
    assert spent <= epsilon and spent == pytest.approx(epsilon, rel=1e-4)


def test_more_privacy_needs_more_noise():
    sigma = operations.noise_multiplier(np.array([0.5, 1.0, 2.0, 8.0]), 1e-5, 0.01, 10000)
    assert np.all(np.diff(sigma) < 0)


def test_epsilon_that_no_noise_can_show_is_impossible():
    with pytest.raises(ImpossibleValue):
        operations.noise_multiplier(1e-3, 1e-5, 0.01, 1000)


def test_samples_for_a_minority_by_the_binomial_distribution():
    for needed, share, confidence in [(100, 0.01, 0.95), (1, 0.5, 0.99), (30, 0.2, 0.5)]:
        count = operations.samples_for_group(needed, share, confidence)
        assert stats.binom.sf(needed - 1, count, share) >= confidence
        assert stats.binom.sf(needed - 1, count - 1, share) < confidence
    assert operations.samples_for_group(7, 1.0, 0.999) == 7


def test_samples_over_arrays_equal_scalars():
    needed, share = np.array([10.0, 1000.0]), np.array([0.1, 0.02])
    together = operations.samples_for_group(needed, share, 0.95)
    assert list(together) == [operations.samples_for_group(n, p, 0.95) for n, p in zip(needed, share, strict=True)]


# ------------------------------------------------------------------------ faults of the nearest tool, one test each


def test_fault_price_unknown_is_free():
    with pytest.raises(UnknownValue, match="price"):
        operations.capital_cost(None, 8, years(4.0), years(1.0), 0.0)  # type: ignore[arg-type]


def test_fault_power_of_accelerators_alone():
    """A server draws 1.8 times what its accelerators do, and an unknown host is an error."""
    whole = operations.node_power(8, Q(700.0, "W"), 1.0, 0.451)
    assert whole.m_as("W") / 5600 == pytest.approx(1.82, abs=0.01)
    with pytest.raises(UnknownValue, match="host_power_share"):
        operations.node_power(8, Q(700.0, "W"), 1.0, None)  # type: ignore[arg-type]


def test_fault_water_counted_on_facility_energy():
    """WUE is per IT energy: a worse PUE uses no more water on site."""
    args = Q(1.0, "MWh"), Q(1.8, "L/kWh")
    assert operations.water(*args, 1.1, Q(0.0, "L/Wh")) == operations.water(*args, 2.0, Q(0.0, "L/Wh"))


def test_fault_embodied_carbon_is_not_amortised():
    day = operations.embodied_carbon(Q(164.0, "kgCO2e"), 1, years(4.0), Q(1.0, "day")).m_as("kgCO2e")
    assert day == pytest.approx(164 / 1461)


def test_fault_checkpoint_penalty_exceeds_one():
    penalties = operations.checkpoint_penalty(Q(300.0, "s"), Q(np.array([100.0, 300.0, 3000.0]), "s"))
    assert list(penalties) == pytest.approx([1.0, 1.0, 0.1])


def test_fault_storage_bandwidth_falls_back_to_a_constant():
    with pytest.raises(UnknownValue, match="writer_bandwidth"):
        operations.write_time(Q(1.0, "TB"), 8, None, Q(1.0, "GB/s"))  # type: ignore[arg-type]


def test_fault_privacy_slows_training_by_an_invented_law():
    """The slowdown is measured per method and does not depend on epsilon; epsilon sets the noise."""
    naive, ghost = operations.private_overhead("per_sample_gradients"), operations.private_overhead("ghost_clipping")
    assert (naive.low, naive.high) == (2.6, 8.0) and ghost.typical < naive.typical
    assert operations.private_operations(Q(10.0, "flop"), naive.typical).m_as("flop") == pytest.approx(46.0)


def test_fault_delta_is_unused():
    strict, loose = operations.privacy_loss(4.0, 0.01, 10000, np.array([1e-9, 1e-3]))
    assert strict > loose


def test_fault_fairness_costs_one_over_the_prevalence():
    """Drawing m / p samples gives too few of the group in about half of all cases; the margin is part of the answer."""
    assert operations.samples_for_group(100, 0.01, 0.95) > 1.1 * 100 / 0.01
