"""Noise: number k of item i is that of numpy's Philox at a counter that (i, k) alone decide."""

import numpy as np
import pytest
import torch

from vlae_fast import noise

SEED, STREAM = 5, noise.SAMPLE


def drawn(first=0, n=3, normals=10, uniforms=7, start=0, seed=SEED):
    return noise.normals_and_uniforms(seed, STREAM, first, n, normals, uniforms, start=start)


def word(seed, stream, item, k):
    """Number k of an item, from numpy's generator of its own."""
    counter = np.array([k // 4, item, 0, 0], np.uint64)
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=counter)
    return int(generator.random_raw(4)[k % 4])


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
@pytest.mark.parametrize("first", [0, 25_960, 2**63 - 1, 2**64 - 3])
def test_numbers_are_those_of_numpy_at_their_counter(seed, first):
    normals, uniforms = drawn(first, seed=seed)
    assert normals.dtype == uniforms.dtype == torch.float32
    for i in range(3):
        words = [word(seed, STREAM, first + i, k) for k in range(17)]
        p = torch.tensor([((w >> 11) + 0.5) / 2**53 for w in words[:10]], dtype=torch.float64)
        assert torch.equal(normals[i], torch.special.ndtri(p).float())
        assert uniforms[i].tolist() == [(w >> 40) / 2**24 for w in words[10:]]


def test_an_item_does_not_depend_on_what_is_drawn_with_it():
    normals, uniforms = drawn(n=9, normals=64, uniforms=31)
    for first, n in ((0, 1), (3, 4), (8, 1)):
        for got, wanted in zip(drawn(first, n, 64, 31), (normals, uniforms), strict=True):
            assert torch.equal(got, wanted[first : first + n])
    for length in (0, 1, 7, 63):
        assert torch.equal(drawn(n=9, normals=length, uniforms=0)[0], normals[:, :length])


@pytest.mark.parametrize("start", [0, 1, 3, 4, 30, 63])
@pytest.mark.parametrize("length", [0, 1, 2, 5, 33])
def test_a_part_of_an_item_is_what_the_whole_has_there(start, length):
    normals = drawn(normals=100)[0]
    assert torch.equal(drawn(normals=length, uniforms=0, start=start)[0], normals[:, start : start + length])


def test_seeds_streams_and_items_differ():
    items = [noise.normals_and_uniforms(s, t, i, 1, 8)[0] for s in (0, 1) for t in (0, 1) for i in (0, 1, 2**63)]
    assert len(torch.cat(items).unique()) == 8 * len(items)


def test_normals_and_uniforms_are_distributed_as_they_say():
    normals, uniforms = drawn(n=200, normals=500, uniforms=500)
    assert abs(normals.mean()) < 0.02
    assert abs(normals.std() - 1) < 0.02
    assert abs(uniforms.mean() - 0.5) < 0.01
    assert uniforms.min() >= 0
    assert uniforms.max() < 1


def test_nothing_wanted():
    assert [list(t.shape) for t in drawn(n=0)] == [[0, 10], [0, 7]]
    assert [list(t.shape) for t in drawn(normals=0, uniforms=0)] == [[3, 0], [3, 0]]


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_numbers_of_every_kind(kind):
    for got, wanted in zip(drawn(kind(2), kind(3), seed=kind(5)), drawn(2, 3, seed=5), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed: a whole number in 0"),
        ({"seed": 2**64}, ValueError, "seed: a whole number in 0"),
        ({"seed": True}, TypeError, "seed: a whole number wanted, got True"),
        ({"seed": 1.5}, TypeError, "seed: a whole number wanted, got 1.5"),
        ({"first": "0"}, TypeError, "first: a whole number wanted, got '0'"),
        ({"first": 2**64 - 2}, ValueError, "n: a whole number in 0..2 wanted, got 3"),
        ({"n": -1}, ValueError, "n: a whole number in 0"),
    ],
)
def test_what_is_no_whole_number_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        drawn(**arguments)


def test_order_of_an_epoch():
    order = noise.permutation(3, 7, 50)
    generator = np.random.Philox(key=np.array([3, noise.ORDER], np.uint64), counter=[0, 7, 0, 0])
    assert (order == np.random.Generator(generator).permutation(50)).all()
    assert not (order == noise.permutation(3, 8, 50)).all()
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 1
