import pytest

from flashflow.training.schedule import cosine_with_warmup


def test_known_points():
    rate = [cosine_with_warmup(s, steps=101, warmup=20, peak=1.0) for s in range(101)]
    assert rate[0] == pytest.approx(1 / 20)
    assert rate[19] == pytest.approx(1.0)
    assert rate[20] == pytest.approx(1.0)
    assert rate[60] == pytest.approx(0.55)  # halfway between 20 and 100
    assert rate[100] == pytest.approx(0.1)
    assert max(rate) == pytest.approx(1.0)
    assert all(a > b for a, b in zip(rate[20:], rate[21:], strict=False))


def test_no_warmup_and_runs_of_one_step():
    assert cosine_with_warmup(0, steps=1, warmup=0, peak=0.5) == 0.5
    assert cosine_with_warmup(0, steps=1, warmup=10, peak=0.5) == pytest.approx(0.05)
    assert cosine_with_warmup(500, steps=10, warmup=0, peak=0.5) == pytest.approx(0.05)
