"""What grows too much is found, and what does not is left alone, with a part that does not grow and with chance."""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import judge  # noqa: E402 (found only after the line above)

SIZES = (10, 100, 1000, 10_000)


def counted(cost, constant=100_000):
    return [(size, constant + cost(size)) for size in SIZES]


class Powers(unittest.TestCase):
    def test_what_grows_with_the_size_is_linear_whatever_is_constant(self):
        for constant in (1, 1000, 1_000_000):
            self.assertTrue(judge.holds(counted(lambda size: 200 * size, constant), "linear"))
        self.assertAlmostEqual(judge.power(counted(lambda size: 200 * size, 0)), 1.0, delta=0.05)

    def test_what_grows_with_its_square_is_found_in_the_last_step_already(self):
        self.assertFalse(judge.holds(counted(lambda size: size * size / 50), "linear"))
        self.assertFalse(judge.holds(counted(lambda size: size * size * 10), "linear"))
        self.assertFalse(judge.holds(counted(lambda size: size**1.4 * 30), "linear"))

    def test_chance_is_no_growth(self):
        for odd in (0.985, 1.015):
            costs = [(size, 100_000 * (odd if at % 2 else 1)) for at, size in enumerate(SIZES)]
            self.assertIsNone(judge.power(costs))
            self.assertTrue(judge.holds(costs, "linear") and judge.holds(costs, "flat"))

    def test_a_walk_is_not_flat(self):
        self.assertFalse(judge.holds(counted(lambda size: size), "flat"))
        self.assertTrue(judge.holds(counted(lambda size: size), 0.2))
        self.assertFalse(judge.holds(counted(lambda size: 3 * size), 0.2))

    def test_what_shrinks_holds(self):
        self.assertTrue(judge.holds([(1, 500), (10, 400), (100, 300)], "flat"))

    def test_what_was_not_counted_does_not_hold(self):
        self.assertFalse(judge.holds([(1, 0), (10, 0), (100, 0)], "flat"))

    def test_one_more_costs_what_it_costs_at_the_end(self):
        self.assertAlmostEqual(judge.each(counted(lambda size: 200 * size)), 200)


if __name__ == "__main__":
    unittest.main()
