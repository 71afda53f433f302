"""Which layers become int8, of times and errors that are made up."""

import dataclasses

import pytest

from flashflow.errors import InvalidArgumentError
from flashflow.quantization.precision import LayerTimes, choose_layers, explain, mean_of_kind, pair_layers
from flashflow.roofline import RooflineRow


def row(us, *weights, coded=False, op="fused_linear"):
    return RooflineRow(op, "", 1.0, 1.0, 1.0, "memory", us, "", weights, coded)


def test_operations_that_share_weights_are_one_layer():
    floats = [
        row(1.0, "wte.weight", op="embedding"),
        row(2.0, "q.weight", "k.weight"),
        row(3.0, "out.weight"),
        row(4.0, op="cached_attention"),
        row(5.0, "wte.weight"),
        row(9.0, "wpe.weight", op="embedding"),
    ]
    codes = [
        row(1.5, "wte.weight", coded=True, op="embedding"),
        row(0.5, "q.weight", coded=True),  # not joined here
        row(0.5, "k.weight", coded=True),
        row(2.0, "out.weight", coded=True),
        row(4.0, op="cached_attention"),
        row(2.5, "wte.weight", coded=True),
        row(9.0, "wpe.weight", op="embedding"),  # stays floats
    ]
    assert pair_layers(floats, codes) == [
        LayerTimes(("wte.weight",), 6.0, 4.0),
        LayerTimes(("q.weight", "k.weight"), 2.0, 1.0),
        LayerTimes(("out.weight",), 3.0, 2.0),
    ]
    with pytest.raises(InvalidArgumentError, match="fused_linear was not measured"):
        pair_layers([row(None, "q.weight")], [])


def test_layers_of_one_kind_take_the_same_time():
    rows = [row(1.0, "a"), row(3.0, "b"), row(5.0, "c", coded=True), row(7.0, "d", op="linear"), row(None, "e")]
    assert [one.achieved_us for one in mean_of_kind(rows)] == [2.0, 2.0, 5.0, 7.0, None]
    assert [one.weights for one in mean_of_kind(rows)] == [one.weights for one in rows]
    larger = [dataclasses.replace(row(1.0, "a"), **{name: 2.0}) for name in ("bytes", "flops")]
    other = dataclasses.replace(row(1.0, "a"), tactic="cuda.gemm")
    assert [one.achieved_us for one in mean_of_kind([*larger, other, row(9.0, "b")])] == [1.0, 1.0, 1.0, 9.0]


LAYERS = [
    LayerTimes(("a.weight",), 10.0, 5.0),
    LayerTimes(("b.weight", "c.weight"), 10.0, 6.0),
    LayerTimes(("d.weight",), 10.0, 9.8),  # less than 3%
    LayerTimes(("e.weight",), 10.0, 12.0),
    LayerTimes(("f.weight",), 10.0, 2.0),
]
# Saved for an error of one: a 500, b 40 (the worse of its two counts), f 8,000.
ERRORS = {"a.weight": 0.01, "b.weight": 0.01, "c.weight": 0.1, "d.weight": 0.0, "e.weight": 0.1, "f.weight": 0.001}


def choices(cost, budget):
    """With a growth that is the sum of `cost` over the layers that are codes; what is chosen, and how often asked."""
    asked = []

    def growth(kept):
        asked.append(sorted(kept))
        return sum(share for name, share in cost.items() if name not in kept)

    return choose_layers(LAYERS, lambda: ERRORS, growth, budget, 0.03), asked


def chosen(found):
    return [choice.times.weights[0] for choice in found if choice.int8]


COST = {"a.weight": 0.004, "b.weight": 0.005, "f.weight": 0.001, "e.weight": 1.0, "d.weight": 1.0}


def test_all_that_is_faster_where_the_budget_allows_it():
    found, asked = choices(COST, 0.011)
    assert chosen(found) == ["a.weight", "b.weight", "f.weight"]
    assert asked == [["d.weight", "e.weight"]], "once"
    assert all(choice.error is None for choice in found), "nobody asked"
    assert [choice.reason for choice in found] == [
        "faster", "faster", "int8 is not faster", "int8 is not faster", "faster",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "budget, kept",
    [(0.0099, ["a.weight", "f.weight"]), (0.005, ["a.weight", "f.weight"]), (0.0049, ["f.weight"]), (0.0009, [])],
)
def test_what_costs_most_for_what_it_saves_is_given_back_first(budget, kept):
    found, asked = choices(COST, budget)
    assert chosen(found) == kept
    assert len(asked) == len({tuple(names) for names in asked}), "nothing is measured twice"
    assert all("budget" in choice.reason for choice in found if not choice.int8 and choice.times.saved_us > 1)


def test_a_table_without_an_error_is_given_back_last():
    layers = [LayerTimes(("table.weight",), 10.0, 9.0), LayerTimes(("a.weight",), 10.0, 1.0)]
    found = choose_layers(layers, lambda: {"a.weight": 1e-9}, lambda kept: 0.0 if kept else 1.0, 0.01, 0.0)
    assert chosen(found) == ["table.weight"] and found[0].error is None


def test_the_table_says_what_was_chosen_and_why():
    text = explain(choices(COST, 0.005)[0])
    assert "     10.00       6.00    1.000e-01    float  b, c: given back: the budget of perplexity" in text
    assert text.splitlines()[-1] == "     50.00      34.80  all of them; as chosen 37.00: 2 of 5 in int8"
