from concurrent.futures import ThreadPoolExecutor

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedx_core.base import seeding


@given(st.integers(0, 2**62), st.integers(0, 100), st.text(max_size=9))
def test_a_seed_is_a_function_of_root_and_place(root: int, round_index: int, who: str) -> None:
    seed = seeding.derive(root, round_index, who)
    assert seed == seeding.derive(root, round_index, who)
    assert 0 <= seed < 2**63
    assert seed != seeding.derive(root + 1, round_index, who)
    assert seed != seeding.derive(root, round_index + 1, who)


def test_numbers_and_texts_that_look_alike_are_different_places() -> None:
    assert seeding.derive(1, 2) != seeding.derive(1, "2")
    assert seeding.derive(1, "ab", "c") != seeding.derive(1, "a", "bc")


def test_generators_are_their_own_and_leave_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    draws = [torch.rand(3, generator=seeding.torch_generator(5)) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(before, torch.random.get_rng_state())
    assert seeding.numpy_generator(5).random() == seeding.numpy_generator(5).random()


def test_threads_that_draw_initial_weights_at_once_get_those_of_their_seeds() -> None:
    def drawn(seed: int) -> torch.Tensor:
        with seeding.initial_weights(seed):
            return torch.cat([torch.nn.Linear(64, 64).weight.detach() for _ in range(20)])

    alone = [drawn(seed) for seed in range(4)]
    before = torch.random.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(drawn, [0, 1, 2, 3] * 8))
    assert all(torch.equal(together[i], alone[i % 4]) for i in range(32))
    assert torch.equal(before, torch.random.get_rng_state())
