"""The most memory that tensors held at one time, beside a sum kept by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from VoCoCore.training.live_memory import LivePeak


@pytest.mark.parametrize("device", ["cpu", "meta"])
@given(
    steps=st.lists(st.tuples(st.sampled_from(["make", "view", "free", "add in place"]), st.integers(0, 50)))
)
def test_the_peak_is_that_of_a_sum_kept_by_hand(device, steps):
    held: list[tuple[int, torch.Tensor]] = []  # number of the storage, a tensor in it
    sizes: list[int] = []
    peak = 0
    with LivePeak() as live:
        for what, number in steps:
            if what == "make":
                held.append((len(sizes), torch.zeros(number, 3, device=device)))
                sizes.append(number * 3 * 4)
            elif held:
                place = number % len(held)
                if what == "view":
                    held.append((held[place][0], held[place][1].t()))
                elif what == "free":
                    del held[place]
                else:
                    held[place][1].add_(1)
            peak = max(peak, sum(sizes[storage] for storage in {storage for storage, _ in held}))
    assert live.peak == peak


def test_what_the_way_back_needs_counts_until_it_is_gone():
    weight, values = torch.randn(64, 64, requires_grad=True), torch.randn(8, 64)
    with LivePeak(known=[weight, values]) as live:
        for _ in range(3):
            (values @ weight).sigmoid().sum().backward()
            weight.grad = None
    # The sigmoid is kept; on the way back there are its gradient and the weight's, and numbers of a few bytes.
    rows, all_of_it = 8 * 64 * 4, 64 * 64 * 4
    assert rows + all_of_it <= live.peak < 2 * rows + all_of_it
