"""Taps against what frameworks capture, against unrolled loops, and against the plain function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from pfn_optax.propagation import activation_statistics, activation_taps
from tests.zoo import attention, chains, loops, residual

pytestmark = pytest.mark.usefixtures("unoptimized")


def keep(pre, post):
    return pre, post


def tapped(function, params, *args, **options):
    taps = activation_taps(function, params, *args, statistics=keep, **options)
    return taps, jax.jit(taps)(params, *args)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def captured(module, params, *args):
    """What Linen records of each module: its output, by its path."""
    _, variables = jax.jit(
        functools.partial(module.apply, capture_intermediates=True, mutable=["intermediates"])
    )({"params": params}, *args)
    leaves = jax.tree_util.tree_leaves_with_path(variables["intermediates"])
    return {
        "/".join(key.key for key in path if hasattr(key, "key")).removesuffix("/__call__"): leaf
        for path, leaf in leaves
    }


class MLP(nn.Module):
    sizes: tuple[int, ...] = (6, 5, 3)

    @nn.compact
    def __call__(self, x):
        for size in self.sizes[:-1]:
            x = nn.tanh(nn.Dense(size)(x))
        return nn.Dense(self.sizes[-1])(x)


class Block(nn.Module):
    """Convolutions with batch norm, a projected shortcut and dropout."""

    @nn.compact
    def __call__(self, x, *, train=True):
        y = nn.BatchNorm(not train, name="norm0")(nn.Conv(4, (3, 3), name="conv0")(x))
        y = self.identity("first", nn.relu(y))
        y = nn.Dropout(0.5, deterministic=not train)(y)
        y = nn.BatchNorm(not train, name="norm1")(nn.Conv(4, (3, 3), name="conv1")(y))
        shortcut = nn.Conv(4, (1, 1), name="projection")(x)
        return nn.Dense(2, name="head")(self.identity("sum", nn.relu(shortcut + y)).mean((1, 2)))

    def identity(self, name, x):
        self.sow("intermediates", name, x)
        return x


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (4, 5))


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, 6, 6, 3))


def test_mlp_in_linen_as_captured(x):
    model = MLP()
    params = model.init(jax.random.key(0), x)["params"]
    taps, found = tapped(lambda params, x: model.apply({"params": params}, x), params, x)
    assert taps.names == ("Dense_0", "Dense_1", "Dense_2")
    assert [layer.activation for layer in taps.layers] == ["tanh", "tanh", None]
    assert not taps.missed
    expected = captured(model, params, x)
    close(found.output, expected[""] if "" in expected else expected["__call__"])
    for layer in taps.layers:
        pre, post = found.layers[layer.name]
        close(pre, expected[layer.name])
        close(post, expected[layer.name] if layer.activation is None else jnp.tanh(pre))


@pytest.mark.parametrize("train", [True, False])
def test_residual_block_with_batch_norm_as_captured(images, train):
    model = Block()
    rngs = {"dropout": jax.random.key(2)}
    variables = model.init(jax.random.key(0), images, train=False)
    variables = {name: variables[name] for name in ("params", "batch_stats")}

    def apply(params, stats, images):
        return model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=train,
            rngs=rngs,
            mutable=["batch_stats"],
        )

    args = variables["params"], variables["batch_stats"], images
    taps, found = tapped(apply, *args)
    assert taps.names == ("conv0", "conv1", "projection", "head")
    expected = model.apply(
        variables,
        images,
        train=train,
        rngs=rngs,
        capture_intermediates=True,
        mutable=["batch_stats", "intermediates"],
    )[1]["intermediates"]
    for name in taps.names:
        close(found.layers[name][0], expected[name]["__call__"][0])
    close(found.layers["conv0"][1], expected["first"][0])  # before dropout
    for name in ("conv1", "projection"):
        close(found.layers[name][1], expected["sum"][0])
    plain = jax.jit(apply)(*args)
    jax.tree.map(close, found.output, plain)


class Network(nnx.Module):
    def __init__(self, rngs):
        layers = [nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)]
        self.layers = nnx.List(layers) if hasattr(nnx, "List") else layers  # since Flax 0.12
        self.norm = nnx.LayerNorm(6, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](nnx.gelu(self.norm(self.layers[0](x))))


def test_nnx_split_and_merged(x):
    model = Network(nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    taps, found = tapped(lambda p, x: nnx.merge(graphdef, p, rest)(x), params, x)
    assert taps.names == ("layers/0", "layers/1")
    pre = model.layers[0](x)
    close(found.layers["layers/0"][0], pre)
    close(found.layers["layers/0"][1], nnx.gelu(model.norm(pre)))
    close(found.output, model(x))


def test_transformer_units_are_those_of_all_heads():
    case = attention.transformer(num_blocks=1)
    taps, found = tapped(case.apply, case.params, *case.args)
    assert taps.names[:5] == (
        "embed",
        *(f"block0/attention/{name}" for name in ("query", "key", "value", "out")),
    )
    assert taps.names[-1] == "embed:2"  # tied
    assert taps.missed == {"positions": "is added to data"}
    close(found.output, jax.jit(case.apply)(case.params, *case.args))
    close(found.layers["embed"][0], case.params["embed"]["embedding"][case.args[0]])
    assert found.layers["block0/attention/query"][0].shape == (2, 4, 8)
    pre, post = found.layers["block0/up"]
    close(post, nn.gelu(pre))
    close(found.output, found.layers["embed:2"][0])


@pytest.mark.parametrize("make", [chains.vgg, chains.low_rank_adapted, residual.nnx_resnet])
def test_every_layer_once_and_the_same_output(make):
    case = make()
    taps, found = tapped(case.apply, case.params, *case.args)
    close(found.output, jax.jit(case.apply)(case.params, *case.args))
    paths = [path for layer in taps.layers for path in layer.paths]
    assert len(paths) == len(set(paths))
    assert not taps.missed
    for pre, post in found.layers.values():
        assert pre.shape == post.shape


def test_recurrent_cells_at_each_time():
    """`nn.RNN` against its cell, called step by step."""
    cell = nn.SimpleCell(4)
    x = jax.random.normal(jax.random.key(1), (2, 3, 5))
    model = nn.RNN(cell)
    params = model.init(jax.random.key(0), x)["params"]
    taps, found = tapped(lambda params, x: model.apply({"params": params}, x), params, x)
    assert taps.names == ("cell/i", "cell/h")
    assert [(layer.rounds, layer.is_stacked) for layer in taps.layers] == [((3,), False)] * 2
    carry = jnp.zeros((2, 4))
    for time in range(3):
        before = carry
        carry, output = cell.apply({"params": params["cell"]}, carry, x[:, time])
        own = params["cell"]
        close(found.layers["cell/i"][0][time], x[:, time] @ own["i"]["kernel"] + own["i"]["bias"])
        close(found.layers["cell/h"][0][time], before @ own["h"]["kernel"])
        close(found.layers["cell/h"][1][time], output)
        close(found.output[:, time], output)


def test_layers_in_a_scan_one_row_each():
    case = loops.scanned_layers(num_layers=3)
    taps, found = tapped(case.apply, case.params, *case.args)
    assert [(layer.name, layer.rounds, layer.is_stacked) for layer in taps.layers] == [
        ("stem", (), False),
        ("layers/up", (3,), True),
        ("layers/down", (3,), True),
        ("head", (), False),
    ]
    reason = "holds stacked vectors"
    assert taps.missed == {f"layers/LayerNorm_0/{name}": reason for name in ("bias", "scale")}
    state = found.layers["stem"][0]
    layer = loops._ResidualLayer()
    for index in range(3):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], case.params["layers"])
        expected = captured(layer, own, state, None)
        close(found.layers["layers/up"][0][index], expected["up"])
        close(found.layers["layers/up"][1][index], nn.gelu(expected["up"]))
        close(found.layers["layers/down"][0][index], expected["down"])
        state = state + expected["down"]


def test_reversed_scan_and_nested_scans():
    weights = jax.random.normal(jax.random.key(0), (2, 3, 3))

    def apply(params, x):
        def layer(h, w):
            def step(state, now):
                state = jnp.tanh(now @ w + state)
                return state, state

            return jax.lax.scan(step, jnp.zeros(3), h, reverse=True)[1], None

        return jax.lax.scan(layer, x, params["w"])[0]

    x = jax.random.normal(jax.random.key(1), (4, 3))
    taps, found = tapped(apply, {"w": weights}, x)
    [layer] = taps.layers
    assert layer.rounds == (2, 4)
    assert layer.is_stacked
    pre, post = found.layers["w"]
    assert pre.shape == (2, 4, 3)
    close(pre[0], x @ weights[0])
    close(found.output, post[1])


def mlp(params, x):
    return jax.nn.silu(x @ params["a"]["w"] + params["a"]["b"]) @ params["b"]["w"]


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(0)
    return {
        "a": {"w": jnp.asarray(draw.normal(size=(5, 4)), jnp.float32), "b": jnp.ones(4)},
        "b": {"w": jnp.asarray(draw.normal(size=(4, 3)), jnp.float32)},
    }


LAYOUTS = {
    "units first": lambda p, x: (
        p["b"]["w"].T @ jnp.tanh(p["a"]["w"].T @ x.T + p["a"]["b"][:, None])
    ),
    "scaled, then biased": lambda p, x: jnp.tanh(x @ p["a"]["w"] * 1.0 + p["a"]["b"]) @ p["b"]["w"],
    "one sample at a time": lambda p, x: jax.vmap(
        lambda one: jnp.tanh(one @ p["a"]["w"] + p["a"]["b"]) @ p["b"]["w"]
    )(x),
    "by loops": lambda p, x: jax.lax.map(
        lambda one: jnp.tanh(one @ p["a"]["w"] + p["a"]["b"]) @ p["b"]["w"], x
    ),
    "remat": jax.checkpoint(lambda p, x: jnp.tanh(x @ p["a"]["w"] + p["a"]["b"]) @ p["b"]["w"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_ways_to_write_the_same(name, params, x):
    taps, found = tapped(LAYOUTS[name], params, x)
    assert taps.names == ("a", "b")
    pre, post = found.layers["a"]
    close(pre, x @ params["a"]["w"] + params["a"]["b"])
    close(post, jnp.tanh(pre))
    close(found.layers["b"][0], post @ params["b"]["w"])


ACTIVATIONS = {
    **{name: getattr(jax.nn, name) for name in "relu gelu silu elu leaky_relu softplus".split()},
    **{name: getattr(jax.nn, name) for name in "relu6 hard_tanh soft_sign mish".split()},
    "sin": jnp.sin,
    "sigmoid": jax.nn.sigmoid,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_any_activation_is_found_whole(name, params, x):
    function = ACTIVATIONS[name]
    _, found = tapped(lambda p, x: function(x @ p["a"]["w"]) @ p["b"]["w"], params, x)
    close(found.layers["a"][1], function(x @ params["a"]["w"]))
    _, found = tapped(lambda p, x: function(x @ p["a"]["w"] + p["a"]["b"]).mean(0), params, x)
    close(found.layers["a"][1], function(x @ params["a"]["w"] + params["a"]["b"]))


def test_statistics_selection_and_other_shapes(params, x):
    taps = activation_taps(mlp, params, x, layers=["b", "a"])
    found = jax.jit(taps)(params, x[:3])
    pre = x[:3] @ params["a"]["w"] + params["a"]["b"]
    expected = activation_statistics(pre, jax.nn.silu(pre))
    for name, value in expected.items():
        np.testing.assert_allclose(found.layers["a"][name], value, rtol=1e-5)
    mapped = jax.jit(jax.vmap(taps, (None, 0)))(params, jnp.stack([x, 2 * x]))
    one = jax.jit(taps)(params, 2 * x)
    jax.tree.map(lambda a, b: close(a[1], b), mapped.layers, one.layers)
    eager = activation_taps(mlp, params, x, layers=["b", "a"], statistics=keep)(params, x)
    assert list(eager.layers) == ["b", "a"]
    close(eager.output, mlp(params, x))


def test_statistics_of_bounded_and_large_activations():
    pre = jnp.asarray(np.random.default_rng(0).normal(size=(50, 20, 8)) * 3, jnp.float32)
    post = jnp.tanh(pre)
    found = activation_statistics(pre, post, bounds=(-1, 1))
    np.testing.assert_allclose(found["saturated_share"], (np.abs(post) >= 0.95).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["mean_square"], (pre**2).mean(), rtol=1e-5)
    whole = activation_statistics(pre, post, max_rows=1000)
    np.testing.assert_allclose(found["activation_rank"], whole["activation_rank"], rtol=0.1)
    broken = activation_statistics(pre.at[0, 0, 0].set(jnp.nan), post)
    np.testing.assert_allclose(broken["nonfinite_share"], 1 / 8000)
    assert np.isnan(broken["saturated_share"])
    with pytest.raises(ValueError, match="max_rows must be at least 2, got 1"):
        activation_statistics(pre, post, max_rows=1)


def test_nothing_is_kept_but_statistics():
    """Of 24 layers' activations at most a few are alive at once."""
    depth, batch, width = 24, 256, 128

    def apply(params, x):
        for name in sorted(params):
            x = jnp.tanh(x @ params[name]["w"])
        return x

    params = {
        f"l{index:02}": {"w": jax.ShapeDtypeStruct((width, width), jnp.float32)}
        for index in range(depth)
    }
    x = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    taps = activation_taps(apply, params, x, statistics=lambda pre, post: jnp.mean(post**2))
    used = jax.jit(taps).lower(params, x).compile().memory_analysis().temp_size_in_bytes
    assert used < 6 * 4 * batch * width


def test_memory_of_a_scan_is_that_of_one_layer():
    depth, batch, width = 24, 256, 128
    shape = jax.ShapeDtypeStruct((depth, width, width), jnp.float32)

    def apply(w, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]

    x = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    taps = activation_taps(apply, shape, x)
    used = jax.jit(taps).lower(shape, x).compile().memory_analysis().temp_size_in_bytes
    assert used < 12 * 4 * batch * width


def test_what_cannot_be_tapped_is_named(params, x):
    def apply(params, x):
        h = jax.lax.cond(x.sum() > 0, lambda: x @ params["a"]["w"], lambda: x[:, :4])
        h = jax.lax.while_loop(lambda h: h.sum() > 9, lambda h: h @ params["square"]["w"], h)
        return (h * params["scale"]).sum() + h @ params["b"]["w"]

    more = {
        "square": {"w": jnp.eye(4)},
        "scale": jnp.ones((4, 4)),
        "unused": {"w": jnp.eye(2)},
    }
    taps, found = tapped(apply, params | more, x)
    assert taps.names == ("b",)
    assert taps.missed == {
        "a": "is inside of a branch (lax.cond)",
        "scale": "meets data in `mul`",
        "square": "is inside of a while-loop",
        "unused": "meets no data",
    }
    close(found.output, apply(params | more, x))
    with pytest.raises(ValueError, match=r"no tap at 'a' \(is inside of a branch.*there are b"):
        activation_taps(apply, params | more, x, layers=["a"])


def test_data_that_was_closed_over(params, x):
    taps, found = tapped(lambda params: mlp(params, x), params)
    assert taps.names == ("a", "b")
    close(found.output, mlp(params, x))


def test_derivatives_obey_their_rules(params, x):
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, gradient: (gradient,))

    def apply(params, x):
        h = rounded(x @ params["a"]["w"])
        return jax.nn.relu(0 * h) + h  # the rule of relu has slope 0 at 0, that of max 1/2

    taps = activation_taps(apply, params, x)
    found = jax.jit(jax.grad(lambda p: taps(p, x).output.sum()))(params)
    close(found["a"]["w"], jax.grad(lambda p: apply(p, x).sum())(params)["a"]["w"])
    assert np.abs(found["a"]["w"]).max() > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: activation_taps(lambda p, x: x.sum(), p, x), "no layer .*a meets no data"),
        (lambda p, x: activation_taps(lambda x: x.sum(), x, x[0, 0]), "positional argument"),
        (lambda p, x: activation_taps(mlp, p, x, layers=["a", "c"]), "no tap at 'c'; .* a, b"),
        (lambda p, x: activation_taps(lambda p, x: "text", p, x), "return trees of arrays"),
        (lambda p, x: activation_taps(lambda p, x: x, {}, x), "Found: no parameters"),
        (
            lambda p, x: activation_taps(lambda p, x: x @ p, x.T.astype(int), x.astype(int)),
            "Found: no parameters",
        ),
        (
            lambda p, x: activation_taps(mlp, p, x, statistics=lambda pre, post: pre @ pre)(p, x),
            "dot_general",
        ),
    ],
)
def test_bad_input_is_named(call, message, params, x):
    with pytest.raises((ValueError, TypeError), match=message):
        call(params, x)


def test_shard_map_is_refused(params, x):
    mesh = jax.make_mesh((1,), ("data",))
    spec = jax.sharding.PartitionSpec()
    sharded = jax.shard_map(mlp, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    with pytest.raises(ValueError, match="tap the function that is inside"):
        activation_taps(sharded, params, x)
