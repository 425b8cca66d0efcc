"""Whether what grows with something grows no more than it may."""

import math

NOISE = 0.02
"""What one count may differ from another of the same, as a part of it: tables are sized, and tasks woken, by chance."""

MOST = 1.1
"""The largest power of a line that may be linear, beyond what does not grow."""

LOOSE = 1.3
"""The same of what is told in processor time, in which memory that is far away has a part."""


def power(counted):
    """The largest power with which it grows from one step to the next; none where it does not grow.

    Of three sizes that stand in one ratio the second rise is that ratio to the power the first rise, whatever the part that
    does not grow. Chance is taken off the one and put onto the other.
    """
    found = [
        math.log((third[1] - second[1] - noise) / (max(second[1] - first[1], 0) + noise)) / math.log(third[0] / second[0])
        for first, second, third in zip(counted, counted[1:], counted[2:])
        if third[1] - second[1] > 2 * (noise := NOISE * first[1])
    ]
    return max(found, default=None)


def each(counted):
    """What one more costs at the end."""
    (before, less), (after, more) = counted[-2:]
    return (more - less) / (after - before)


def holds(counted, may, most=MOST):
    """`may` is `flat`, `linear`, or how much more the last may be than the first, as a part of it."""
    if min(cost for _, cost in counted) <= 0:
        # Nothing costs nothing: it was not counted.
        return False
    if may == "linear":
        return (power(counted) or 0) <= most
    more = 2 * NOISE if may == "flat" else may
    return max(cost for _, cost in counted) <= counted[0][1] * (1 + more)
