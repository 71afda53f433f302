from tools.bench.report import Row, render


def test_table_shows_every_figure_with_its_unit():
    rows = [Row("decode", 50.0, "tok/s", 25.0, 2.0, "torch eager"), Row("read bandwidth", 20.5, "GB/s")]
    header, first, second = render(rows).splitlines()
    assert header.split() == ["figure", "ours", "peer", "ratio", "against"]
    assert first.split() == ["decode", "50", "tok/s", "25", "tok/s", "2.00x", "torch", "eager"]
    assert second.split() == ["read", "bandwidth", "20.5", "GB/s"]
