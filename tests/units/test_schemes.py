"""Every rule, on two small layers with one operation between them: what it keeps, it may permute.

`unit_spec` checks each spec on the function, so a rule that keeps too much fails here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pfn_optax.tracing import Equation, Variable
from pfn_optax.units import unit_spec
from pfn_optax.units.schemes import scheme_of

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def groups_of(middle, rows, **others):
    """Sizes of the groups of x -> middle(x @ in) @ out, x: (2, 3), in: (3, 4)."""
    shapes = {"in": (3, 4), "out": (rows, 2), **others}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    spec = unit_spec(lambda p, x: middle(p, x @ p["in"]) @ p["out"], params, X)
    return sorted(group.size for group in spec.groups)


KEPT = {
    "sort along examples": lambda h: jnp.sort(h, 0),
    "cumulative sum along examples": lambda h: jnp.cumsum(h, 0),
    "reversed examples": lambda h: h[::-1],
    "argmax along examples": lambda h: jnp.argmax(h, 0).astype(h.dtype)[None],
    "softmax": jax.nn.softmax,
    "maximum of all units": lambda h: h - h.max(-1, keepdims=True),
    "product of all units": lambda h: h * h.prod(-1, keepdims=True),
    "first example": lambda h: h[:1],
    "every other example": lambda h: h[::2],
    "one example, dynamically": lambda h: lax.dynamic_slice_in_dim(h, jnp.int32(h.sum() > 0), 1),
    "examples by index": lambda h: h[jnp.asarray([1, 1, 0])],
    "one example replaced": lambda h: h.at[0].set(1.0),
    "one example updated": lambda h: lax.dynamic_update_slice_in_dim(h, 2 * h[:1], 1, 0),
    "examples added": lambda h: h.at[jnp.asarray([0, 0])].add(h),
    "stacked examples": lambda h: jnp.stack([h, h * h], 1),
    "unstacked examples": lambda h: jnp.stack([-x for x in h]),
    "window of examples": lambda h: lax.reduce_window(
        h, -jnp.inf, lax.max, (2, 1), (1, 1), ((0, 1), (0, 0))
    ),
    "power": lambda h: jnp.abs(h) ** 1.5 + h**3,
    "clipped": lambda h: jnp.clip(h, -1, 1),
    "chosen by a comparison": lambda h: jnp.where(h > h.mean(-1, keepdims=True), h, jnp.sin(h)),
    "barrier": lambda h: lax.optimization_barrier((h, 2 * h))[1],
    "rematerialised, mapped, jitted": jax.checkpoint(jax.vmap(jax.jit(jnp.exp))),
    "gradient": jax.grad(lambda h: jax.nn.softplus(h).sum()),
    "associative scan": lambda h: lax.associative_scan(jnp.multiply, h),
    "constant of equal entries": lambda h: h * np.full((2, 4), 3.0, np.float32),
    "axis added and taken away": lambda h: h[:, None, :, None].swapaxes(0, 2)[:, 0, :, 0].T,
    "gram matrix": lambda h: (h @ h.T) @ h,
}

PINNED = {
    "sort along units": lambda h: jnp.sort(h, -1),
    "cumulative sum along units": lambda h: jnp.cumsum(h, -1),
    "reversed units": lambda h: h[:, ::-1],
    "argmax along units": lambda h: h * jnp.argmax(h, -1, keepdims=True),
    "top two": lambda h: h - lax.top_k(h, 2)[0].repeat(2, -1),
    "spectrum": lambda h: jnp.abs(jnp.fft.fft(h)),
    "dropout": lambda h: h * jax.random.bernoulli(jax.random.key(0), 0.5, h.shape),
    "numbered units": lambda h: h * jnp.arange(4),
    "constant of different entries": lambda h: h * np.arange(4, dtype=np.float32),
    "units by index": lambda h: h[:, jnp.asarray([0, 1, 3, 2])],
    "every other unit": lambda h: jnp.concatenate([h[:, ::2], h[:, 1::2]], -1),
    "window of units": lambda h: lax.reduce_window(h, 0.0, lax.add, (1, 2), (1, 1), "SAME"),
    "one unit replaced": lambda h: h.at[:, 0].set(1.0),
    "one unit updated": lambda h: lax.dynamic_update_slice_in_dim(h, h[:, :1] * 2, 1, 1),
    "convolution along units": lambda h: jax.vmap(lambda row: jnp.convolve(row, row[:2], "same"))(
        h
    ),
    "units as examples": lambda h: h * h.reshape(4, 2).sum(-1),
    "units against themselves": lambda h: h @ (h.T @ h + jnp.diag(jnp.arange(4.0))),
}


@pytest.mark.parametrize("name", KEPT)
def test_operations_that_keep_the_units(name):
    assert groups_of(lambda params, h: KEPT[name](h), 4) == [4]


@pytest.mark.parametrize("name", PINNED)
def test_operations_that_tell_the_units_apart(name):
    assert groups_of(lambda params, h: PINNED[name](h), 4) == []


@pytest.mark.parametrize(
    ("middle", "rows", "others", "expected"),
    [
        # Two copies of each unit: which of its rows of `out` is which does not matter.
        (lambda p, h: jnp.repeat(h, 2, -1), 8, {}, [2, 4]),
        (lambda p, h: jnp.tile(h, (1, 2)), 8, {}, [2, 4]),
        # The first and the last unit are never read, and each stands alone.
        (lambda p, h: h[:, 1:3], 2, {}, [2]),
        (lambda p, h: jnp.concatenate([h, h * h], -1), 8, {}, [4]),
        (lambda p, h: sum(jnp.split(h, 2, -1)), 2, {}, [2]),
        (lambda p, h: jnp.einsum("bi,bj->bij", h, h).reshape(2, 16), 16, {}, [4]),
        (lambda p, h: jnp.pad(h, ((0, 0), (2, 2))), 8, {}, [2, 2, 4]),
        (lambda p, h: jnp.tanh(h @ p["w"]), 5, {"w": (4, 5)}, [4, 5]),
        (lambda p, h: h * p["w"].mean(), 4, {"w": (5, 6)}, [4, 5, 6]),
        (lambda p, h: h + p["table"][jnp.asarray([2, 0])], 4, {"table": (3, 4)}, [4]),
        (lambda p, h: h + p["table"].T[:, 0], 4, {"table": (3, 4)}, [2, 4]),
        (lambda p, h: h @ (p["w"] / jnp.linalg.norm(p["w"], axis=0)), 5, {"w": (4, 5)}, [4, 5]),
        # Channels and pixels of a transposed convolution in one dimension.
        (
            lambda p, h: lax.conv_transpose(
                h[None], p["w"], (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
            )[0],
            5,
            {"w": (3, 4, 5)},
            [4, 5],
        ),
    ],
)
def test_operations_that_rearrange_the_units(middle, rows, others, expected):
    assert groups_of(middle, rows, **others) == expected


def test_rotary_embeddings_leave_the_heads():
    """They turn pairs of entries of a head by an angle that depends on the pair."""

    def rotate(x):
        left, right = jnp.split(x, 2, -1)
        angle = np.arange(2, dtype=np.float32)[:, None, None] * np.asarray([1.0, 0.1], np.float32)
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        return jnp.concatenate([left * cosine - right * sine, left * sine + right * cosine], -1)

    def attend(params, h):
        q, k = (rotate((h @ params[name]).reshape(2, 3, 4)) for name in ("q", "k"))
        scores = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
        return jnp.einsum("hqk,khd->qhd", scores, (h @ params["v"]).reshape(2, 3, 4)).reshape(2, 12)

    assert groups_of(attend, 12, q=(4, 12), k=(4, 12), v=(4, 12)) == [3, 4, 4]


def test_shards_of_a_mesh():
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("batch",))
    spec = jax.sharding.PartitionSpec("batch")
    mapped = jax.shard_map(
        lambda h: h - lax.pmean(h.mean(0), "batch"), mesh=mesh, in_specs=spec, out_specs=spec
    )
    assert groups_of(lambda params, h: mapped(h), 4) == [4]


def test_empty_arrays():
    assert groups_of(lambda p, h: jnp.concatenate([h[:0], h]), 4) == [4]
    assert groups_of(lambda p, h: jnp.concatenate([h[:, :0].reshape(0, 4), h]), 4) == [4]


def test_a_primitive_without_a_rule():
    assert scheme_of(Equation("no such thing", (Variable((2,), np.float32),), ())) is None
