"""Axes as terms, and their unification: two axes that must be permuted alike become one.

An axis of a value is a term: a `Dim`, a `Product` of terms (row-major, what a reshape makes) or a
`Sum` of terms (stretches end to end, what a concatenation makes). Free dims may be permuted at
will, each in its own way; pinned dims must stay as they are. Where terms do not fit each other
they are pinned, which is always right: it only gives up a symmetry.

Factors have two or more entries and parts one or more, so a term is always larger than what it is
made of and no dim is ever bound to a term that contains it.

Reference: Robinson, "A machine-oriented logic based on the resolution principle", 1965.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(eq=False)
class Dim:
    """An index of its own, known by identity.

    Attributes:
        size: how many values it takes.
        is_pinned: whether they must stay in their order.
        bound: the term it turned out to be; None while it stands for itself.
    """

    size: int
    is_pinned: bool = False
    bound: "Term | None" = None


class Product(NamedTuple):
    """Factors in row-major order."""

    factors: "tuple[Term, ...]" = ()

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(factor.size for factor in self.factors)


class Sum(NamedTuple):
    """Parts end to end."""

    parts: "tuple[Term, ...]" = ()

    @property
    def size(self) -> int:
        """Number of entries."""
        return sum(part.size for part in self.parts)


Term = Dim | Product | Sum


def pinned(size: int) -> Dim:
    """A new index that must stay as it is."""
    return Dim(size, is_pinned=True)


def product(terms: Iterable[Term]) -> Term:
    """The product of terms; a factor of size one is pinned and left out."""
    factors: list[Term] = []
    for term in map(head, terms):
        if term.size == 0:
            return Sum()
        if term.size == 1:
            pin(term)
        elif isinstance(term, Product):
            factors.extend(term.factors)
        else:
            factors.append(term)
    return factors[0] if len(factors) == 1 else Product(tuple(factors))


def concatenation(terms: Iterable[Term]) -> Term:
    """The sum of terms; empty parts are left out."""
    parts: list[Term] = []
    for term in map(head, terms):
        if isinstance(term, Sum):
            parts.extend(term.parts)
        elif term.size:
            parts.append(term)
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def head(term: Term) -> Term:
    """What a term is bound to."""
    while isinstance(term, Dim) and term.bound is not None:
        term = term.bound
    return term


def dims(term: Term) -> Iterator[Dim]:
    """The dims that a term is made of, in order."""
    term = head(term)
    if isinstance(term, Dim):
        yield term
    else:
        for inner in term[0]:
            yield from dims(inner)


def labels(term: Term) -> Iterator[Dim]:
    """The dims that a term was made of, whatever they are bound to by now."""
    if isinstance(term, Dim):
        yield term
    else:
        for inner in term[0]:
            yield from labels(inner)


def pin(term: Term) -> None:
    """Pins all dims of a term."""
    for dim in dims(term):
        dim.is_pinned = True


def unify(left: Term, right: Term) -> None:
    """Makes two terms of the same size one."""
    left, right = head(left), head(right)
    if left is right:
        return
    if left.size != right.size:
        raise ValueError(f"axes of sizes {left.size} and {right.size} cannot be one.")
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Dim) and not one.is_pinned:
            one.bound = other
            return
    if isinstance(left, Dim) or isinstance(right, Dim):
        pin(left)
        pin(right)
    elif isinstance(left, Sum):
        _unify_parts(left, right)
    elif isinstance(right, Sum):
        _unify_parts(right, left)
    else:
        _unify_factors(left, right)


def _unify_parts(left: Sum, right: Term) -> None:
    for part in left.parts:
        first, right = _cut(right, part.size)
        unify(part, first)


def _unify_factors(left: Product, right: Product) -> None:
    rest: Term = right
    for factor in left.factors:
        found = _factored(rest, factor.size)
        if found is None:
            pin(left)
            pin(right)
            return
        first, rest = found
        unify(factor, first)


def _cut(term: Term, size: int) -> tuple[Term, Term]:
    """The first `size` entries of a term and the others."""
    term = head(term)
    if size in (0, term.size):
        return (term, Sum()) if size else (Sum(), term)
    if isinstance(term, Dim):
        first, rest = (Dim(n, term.is_pinned) for n in (size, term.size - size))
        term.bound = None if term.is_pinned else Sum((first, rest))
        return first, rest
    lead, *others = term[0]
    if isinstance(term, Sum):
        if size >= lead.size:
            first, rest = _cut(concatenation(others), size - lead.size)
            return concatenation((lead, first)), rest
        first, rest = _cut(lead, size)
        return first, concatenation((rest, *others))
    inner = product(others)
    copies, inside = divmod(size, inner.size)
    if not inside:
        first, rest = _cut(lead, copies)
        return product((first, inner)), product((rest, inner))
    # The cut goes through one of the copies of the inner factors: the copies differ from now on.
    pin(lead)
    first, rest = _cut(inner, inside)
    before, after = pinned(copies), pinned(lead.size - copies - 1)
    return (
        concatenation((product((before, inner)), first)),
        concatenation((rest, product((after, inner)))),
    )


def _factored(term: Term, size: int) -> tuple[Term, Term] | None:
    """A term as an outer index of a given size and the rest; None if it does not factor so."""
    term = head(term)
    if size == term.size:
        return term, Product()
    if term.size % size:
        return None
    rest_size = term.size // size
    if isinstance(term, Dim):
        outer, rest = Dim(size, term.is_pinned), Dim(rest_size, term.is_pinned)
        term.bound = None if term.is_pinned else Product((outer, rest))
        return outer, rest
    if isinstance(term, Sum):
        # Stretches of equal length under one index: they can only be permuted alike.
        first, rest = _cut(term, rest_size)
        for _ in range(size - 1):
            another, rest = _cut(rest, rest_size)
            unify(first, another)
        return pinned(size), first
    lead, *others = term.factors
    if size == lead.size:
        return lead, product(others)
    if size % lead.size == 0:
        found = _factored(product(others), size // lead.size)
        return found and (product((lead, found[0])), found[1])
    found = _factored(lead, size)
    return found and (found[0], product((found[1], *others)))


def stretches(term: Term) -> list[tuple[Dim, ...]]:
    """A term as stretches end to end, each a row-major product of dims.

    Under a free index there is no such form for a sum, whose dims are pinned then; so a term is
    final when all terms have been asked for once more.
    """
    term = head(term)
    if isinstance(term, Dim):
        return [(term,)]
    if all(dim.is_pinned for dim in dims(term)):
        return [(pinned(term.size),)]
    if isinstance(term, Sum):
        return [stretch for part in term.parts for stretch in stretches(part)]
    lead, *others = term.factors
    outers, inners = stretches(lead), stretches(product(others))
    if len(inners) > 1 and not all(dim.is_pinned for outer in outers for dim in outer):
        pin(product(others))
        return stretches(term)
    if len(inners) > 1:
        return inners * lead.size
    return [outer + inners[0] for outer in outers]
