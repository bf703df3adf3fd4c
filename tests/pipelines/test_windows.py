from __future__ import annotations

import itertools

import pytest
import torch

from sd_pipeline.pipelines.windows import predict_in_windows, window_slices

LENGTHS_AND_WINDOWS = [(length, window) for window in (1, 2, 3, 7, 8, 9) for length in (1, 2, 7, 8, 9, 10, 12, 13, 40)]


@pytest.mark.parametrize(("length", "window"), LENGTHS_AND_WINDOWS)
def test_windows_cover_a_line_evenly_and_overlap_by_half(length, window):
    slices = window_slices(length, window)
    assert {part.stop - part.start for part in slices} == {min(length, window)}
    assert (slices[0].start, slices[-1].stop) == (0, length)
    strides = [after.start - before.start for before, after in itertools.pairwise(slices)]
    assert all(0 < stride <= max(window // 2, 1) for stride in strides)
    assert max(strides, default=0) - min(strides, default=0) <= 1


def test_no_more_windows_than_needed():
    assert window_slices(12, 8) == [slice(0, 8), slice(4, 12)]
    assert window_slices(16, 8) == [slice(0, 8), slice(4, 12), slice(8, 16)]
    assert len(window_slices(17, 8)) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(8, 8), (5, 20), (21, 9), (40, 3)])
def test_weights_are_normalised(size, dtype):
    like = torch.zeros(2, 3, *size, dtype=dtype)
    made = predict_in_windows(lambda place: torch.full_like(like[..., place[0], place[1]], 0.3), like, (8, 8))
    assert made.dtype == dtype
    torch.testing.assert_close(made, torch.full_like(like, 0.3), rtol=1e-6 if dtype == torch.float32 else 0, atol=0)


def test_large_values_do_not_overflow_in_half_precision():
    like = torch.zeros(1, 1, 8, 400, dtype=torch.float16)
    made = predict_in_windows(lambda place: torch.full_like(like[..., place[0], place[1]], 300), like, (8, 256))
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("size", [(8, 20), (17, 30)])
def test_a_pointwise_prediction_is_the_same_through_windows(size):
    values = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    made = predict_in_windows(lambda place: values[..., place[0], place[1]].sin(), values, (8, 8))
    torch.testing.assert_close(made, values.sin())


def test_every_window_counts_and_the_centre_most():
    """A window that alone predicts 1 has positive weight in all its cells, more in the middle than at its edges."""
    like = torch.zeros(1, 1, 8, 20)
    second = window_slices(20, 8)[1]
    made = predict_in_windows(
        lambda place: torch.full_like(like[..., place[0], place[1]], float(place[1] == second)), like, (8, 8)
    )[0, 0, 4]
    assert (made[second] > 0).all()
    assert (made[: second.start] == 0).all()
    assert (made[second.stop :] == 0).all()
    middle = (second.start + second.stop) // 2
    assert made[middle] > made[second.start]
    assert made.diff().abs().max() < 0.5, "no edge shows"


def test_windows_are_left_out_where_nothing_is_wanted_and_nowhere_else():
    like = torch.zeros(2, 1, 24, 24)
    wanted = torch.zeros(2, 1, 24, 24)
    wanted[1, :, 20:, 3] = 1
    seen = torch.zeros(24, 24)

    def predict(place):
        assert wanted[..., place[0], place[1]].any()
        seen[place] += 1
        return torch.ones_like(like[..., place[0], place[1]])

    made = predict_in_windows(predict, like, (8, 8), wanted)
    everywhere = predict_in_windows(lambda place: torch.ones_like(like[..., place[0], place[1]]), like, (8, 8))
    assert torch.equal(made[wanted == 1], everywhere[wanted == 1])
    assert (seen[20:, 3] > 0).all()
    assert torch.equal(made[0, 0] != 0, seen > 0)
    assert (seen > 0).sum() < 24 * 24 / 2


def test_what_fits_into_one_window_is_asked_at_once():
    like, places = torch.zeros(1, 1, 8, 5), []
    predict_in_windows(lambda place: places.append(place) or like, like, (8, 8), torch.zeros(8, 5))
    assert places == [(slice(0, 8), slice(0, 5))]
