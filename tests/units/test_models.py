"""Groups of known models, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pfn_optax.tracing import trace
from pfn_optax.units import Group, Member, Segment, axes_of, check_spec, num_symmetries, unit_spec
from tests.zoo import LARGE, SMALL


def with_statistics(case):
    """Batch statistics have an entry per unit too, so they go with the parameters."""
    if len(case.args) < 3:
        return case.apply, case.params, case.args
    statistics, *args = case.args
    return (
        lambda params, *args: case.apply(params[0], params[1], *args),
        (case.params, statistics),
        tuple(args),
    )


def spec_of(name, **sizes):
    case = (SMALL | LARGE)[name](make=jax.eval_shape, **sizes)
    function, params, args = with_statistics(case)
    return unit_spec(function, params, *args, check=False)


def sizes(spec):
    return {group.name: group.size for group in spec.groups}


def places(group):
    return {(*member.path[-2:], member.axis) for member in group.members}


def exponents(group):
    return {(*member.path[-2:], member.axis): member.exponent for member in group.members}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_specs_of_all_models_hold_in_float64(name):
    """Their values are drawn by the check."""
    function, params, args = with_statistics(SMALL[name](make=jax.eval_shape))
    spec = unit_spec(function, params, *args)
    assert spec.groups
    assert spec.warnings == ()


def test_only_shapes_are_read():
    case, shapes = SMALL["mlp"](), SMALL["mlp"](make=jax.eval_shape)
    spec = unit_spec(case.apply, case.params, *case.args)
    assert spec == unit_spec(shapes.apply, shapes.params, *shapes.args, check=False)
    assert hash(spec) == hash(unit_spec(case.apply, case.params, *case.args, check=False))


def test_mlp():
    spec = spec_of("mlp", sizes=(5, 8, 6, 3))
    assert spec.groups == tuple(
        Group(
            f"Dense_{i}",
            size,
            (
                Member((f"Dense_{i}", "bias"), 0, exponent=1, is_read=False),
                Member((f"Dense_{i}", "kernel"), 1, exponent=1, is_read=False),
                Member((f"Dense_{i + 1}", "kernel"), 0, exponent=-1, is_read=True),
            ),
        )
        for i, size in enumerate((8, 6))
    )
    assert num_symmetries(spec) == pytest.approx(math.log10(math.factorial(8) * math.factorial(6)))


def test_tanh_allows_no_rescaling():
    assert not any(group.is_scalable for group in spec_of("plain_mlp").groups)


def test_a_layer_of_one_unit_is_a_group():
    spec = spec_of("mlp", sizes=(5, 1, 3))
    assert sizes(spec) == {"Dense_0": 1}
    assert exponents(spec.group("Dense_0")) == {
        ("Dense_0", "bias", 0): 1,
        ("Dense_0", "kernel", 1): 1,
        ("Dense_1", "kernel", 0): -1,
    }


def test_batch_norm_and_flattened_pixels():
    spec = spec_of("cnn", width=4)
    assert sizes(spec) == {"0/Conv_0": 4, "0/Conv_1": 8, "0/Dense_0": 16}
    assert exponents(spec.group("0/Conv_1")) == {
        ("BatchNorm_1", "bias", 0): 1,
        ("BatchNorm_1", "mean", 0): 0,
        ("BatchNorm_1", "scale", 0): 1,
        ("BatchNorm_1", "var", 0): 0,
        ("Conv_1", "bias", 0): 0,
        ("Conv_1", "kernel", 3): 0,
        ("Dense_0", "kernel", 0): -1,
    }
    [flattened] = [m for m in spec.group("0/Conv_1").members if m.path[-2] == "Dense_0"]
    assert (flattened.start, flattened.before, flattened.after) == (0, 2 * 2, 1)


def test_statistics_that_are_data_tie_their_units_down():
    case = SMALL["cnn"](make=jax.eval_shape)
    assert sizes(unit_spec(case.apply, case.params, *case.args, check=False)) == {"Dense_0": 16}


def test_the_stream_of_a_resnet_is_one_group():
    spec = spec_of("resnet", stages=(2, 1), width=4)
    stream = {path[0] for path in places(spec.group("0/stem")) if path[1] == "kernel"}
    assert stream == {"stem", "conv0", "conv1", "projection"}
    assert {m.path[1] for m in spec.group("0/stem").members if m.path[-1] == "kernel"} == {
        "stem",
        "block0_0",
        "block0_1",
        "block1_0",
    }
    assert set(sizes(spec).items()) == {
        ("0/stem", 4),
        ("0/block0_0/conv0", 4),
        ("0/block0_1/conv0", 4),
        ("0/block1_0/conv0", 8),
        ("0/block1_0/projection", 8),
    }
    assert all(group.is_scalable for group in spec.groups)


def test_resnet50():
    """Two inner groups for each of 16 blocks, the stem, and the stream of each of four stages."""
    spec = spec_of("resnet50")
    stages = {64: 3, 128: 4, 256: 6, 512: 3}
    expected = [64, *(4 * width for width in stages)]
    expected += [width for width, blocks in stages.items() for _ in range(2 * blocks)]
    assert sorted(group.size for group in spec.groups) == sorted(expected)


def test_concatenated_channels_are_stretches_of_their_groups():
    spec = spec_of("densenet", num_layers=2, growth=2)
    assert sizes(spec) == {"0/stem": 4, "0/conv0": 2, "0/conv1": 2}
    head = {
        group.name: [(m.start, m.axis) for m in group.members if m.path[-2:] == ("head", "kernel")]
        for group in spec.groups
    }
    assert head == {"0/stem": [(0, 0)], "0/conv0": [(4, 0)], "0/conv1": [(6, 0)]}


def test_transformer():
    """Heads; their entries for queries and keys, and for values; the stream; the inner layer."""
    spec = spec_of("transformer", num_blocks=1, width=8, num_heads=2)
    names = "attention/query/kernel", "attention/query/kernel:2", "attention/value/kernel", "up"
    assert sizes(spec) == {
        "embed": 8,
        **dict(zip((f"block0/{n}" for n in names), (2, 4, 4, 32), strict=True)),
    }
    heads, keys, values, up = (spec.group(f"block0/{name}") for name in names)
    leaves = [(path, name) for path in ("query", "key", "value") for name in ("kernel", "bias")]
    assert places(heads) == {
        *((*leaf, int(leaf[1] == "kernel")) for leaf in leaves),
        ("out", "kernel", 0),
    }
    assert exponents(keys) == {
        ("query", "bias", 1): 1,
        ("query", "kernel", 2): 1,
        ("key", "bias", 1): -1,
        ("key", "kernel", 2): -1,
    }
    assert exponents(values) == {
        ("value", "bias", 1): 1,
        ("value", "kernel", 2): 1,
        ("out", "kernel", 1): -1,
    }
    assert not up.is_scalable  # gelu
    stream = {member.path for member in spec.group("embed").members}
    assert {("embed", "embedding"), ("positions",)} < stream


@pytest.mark.parametrize(("name", "group"), [("elman", "input"), ("gru", "cell/ir")])
def test_a_recurrent_state_is_one_group_on_both_sides_of_its_matrix(name, group):
    spec = spec_of(name, width=4)
    assert sizes(spec) == {group: 4}
    matrices = [member.path for member in spec.group(group).members if member.axis == 0]
    assert set(matrices) & {m.path for m in spec.group(group).members if m.axis == 1}


def test_scanned_layers_permute_alike():
    spec = spec_of("scanned_layers", num_layers=3, width=4)
    assert sizes(spec) == {"stem": 4, "layers/up/kernel": 8}
    assert places(spec.group("layers/up/kernel")) == {
        ("up", "bias", 1),
        ("up", "kernel", 2),
        ("down", "kernel", 1),
    }


def image_net(middle):
    """A convolution of 4 channels, something between, and a head of its mean."""
    shapes = {"stem": (3, 3, 3, 4), "head": (4, 2)}

    def convolve(x, kernel, groups=1):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    def function(params, x):
        x = convolve(x, params["stem"])
        return middle(params, x, convolve).mean((1, 2)) @ params["head"]

    return function, shapes, jax.ShapeDtypeStruct((2, 5, 5, 3), jnp.float32)


def abstract(shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def test_a_depthwise_convolution_keeps_its_channels():
    function, shapes, x = image_net(lambda p, x, convolve: convolve(x, p["depthwise"], 4))
    spec = unit_spec(function, abstract(shapes | {"depthwise": (3, 3, 1, 4)}), x)
    assert exponents(spec.group("stem")) == {
        ("stem", 3): 0,
        ("depthwise", 3): 1,
        ("head", 0): -1,
    }


def test_a_grouped_convolution_permutes_its_groups_and_within_them():
    function, shapes, x = image_net(lambda p, x, convolve: convolve(x, p["grouped"], 2))
    spec = unit_spec(function, abstract(shapes | {"grouped": (3, 3, 2, 4)}), x)
    assert sizes(spec) == {"grouped": 2, "stem": 2, "stem:2": 2}
    across, within = spec.group("stem"), spec.group("stem:2")
    assert places(across) == {("stem", 3), ("grouped", 3), ("head", 0)}
    assert places(within) == {("stem", 3), ("grouped", 2)}
    assert {(m.before, m.after) for m in across.members} == {(1, 2)}


def test_a_group_norm_permutes_its_groups_and_within_them():
    def norm(params, x, convolve):
        grouped = x.reshape(*x.shape[:-1], 2, 2)
        mean = grouped.mean((1, 2, 4), keepdims=True)
        scale = lax.rsqrt(jnp.square(grouped - mean).mean((1, 2, 4), keepdims=True) + 1e-5)
        return jax.nn.relu(((grouped - mean) * scale).reshape(x.shape) * params["gain"])

    function, shapes, x = image_net(norm)
    spec = unit_spec(function, abstract(shapes | {"gain": (4,)}), x)
    assert sizes(spec) == {"stem": 2, "stem:2": 2}
    for group in spec.groups:
        assert exponents(group) == {("stem", 3): 0, ("gain", 0): 1, ("head", 0): -1}


def test_heads_of_a_fused_matrix_are_views_of_its_axis():
    """As many write attention: one matrix of width heads * entries, split by reshaping."""

    def function(params, x):
        q, k, v = (x.at[:].get() @ params[name] for name in ("query", "key", "value"))
        q, k, v = (a.reshape(*a.shape[:-1], 2, 3) for a in (q, k, v))
        scores = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
        return jnp.einsum("hqk,khd->qhd", scores, v).reshape(-1, 6) @ params["out"]

    shapes = dict.fromkeys(("query", "key", "value"), (4, 6)) | {"out": (6, 2)}
    spec = unit_spec(function, abstract(shapes), jax.ShapeDtypeStruct((5, 4), jnp.float32))
    assert sizes(spec) == {"query": 2, "query:2": 3, "value": 3}
    assert {(m.before, m.after) for m in spec.group("query").members} == {(1, 3)}
    assert {(m.before, m.after) for m in spec.group("query:2").members} == {(2, 1)}
    assert places(spec.group("value")) == {("value", 1), ("out", 0)}


def test_gates_cut_from_one_matrix_are_stretches():
    def function(params, x):
        gate, value = jnp.split(x @ params["in"], 2, -1)
        return (gate * value) @ params["out"]

    spec = unit_spec(
        function, abstract({"in": (3, 8), "out": (4, 2)}), jax.ShapeDtypeStruct((5, 3), jnp.float32)
    )
    assert [(m.path, m.start) for m in spec.group("in").members] == [
        (("in",), 0),
        (("in",), 4),
        (("out",), 0),
    ]


def test_padded_channels_are_no_units():
    """The parameter-free shortcut of He et al. 2016: more channels, the new ones zero."""

    def widened(params, x, convolve):
        y = convolve(x, params["wide"])
        return jax.nn.relu(jnp.pad(x, ((0, 0), (0, 0), (0, 0), (2, 2))) + y)

    function, shapes, x = image_net(widened)
    spec = unit_spec(function, abstract(shapes | {"wide": (3, 3, 4, 8), "head": (8, 2)}), x)
    assert sizes(spec) == {"stem": 4, "wide": 2, "wide:2": 2}
    assert {(*m.path, m.axis, m.start) for m in spec.group("stem").members} == {
        ("stem", 3, 0),
        ("wide", 2, 0),
        ("wide", 3, 2),
        ("head", 0, 2),
    }
    assert all(group.is_scalable for group in spec.groups)


def test_units_that_nothing_reads_by_weights():
    """A committee: the outputs of its units are summed."""
    params = {"in": np.ones((3, 4), np.float32)}
    spec = unit_spec(lambda p, x: jax.nn.relu(x @ p["in"]).sum(-1), params, np.ones((2, 3)))
    assert spec.groups == (Group("in", 4, (Member(("in",), 1),)),)


def test_what_the_outputs_do_not_depend_on_is_in_no_group():
    def function(params, x):
        unused = x @ params["in"] @ params["dead"]
        return x @ params["in"] @ params["out"], 0 * unused.shape[0]

    shapes = {"in": (3, 4), "out": (4, 2), "dead": (4, 5), "never": (6,)}
    spec = unit_spec(function, abstract(shapes), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    assert {m.path for group in spec.groups for m in group.members} == {("in",), ("out",)}
    assert len(spec.leaves) == 4


def test_parameters_that_are_one_array():
    spec = unit_spec(lambda w, x: jnp.tanh(x @ w).sum(-1), np.eye(3), np.ones((2, 3)))
    assert sizes(spec) == {"params": 3}
    assert str(spec.groups[0].members[0]) == "params axis 1"


def test_branches_and_while_loops():
    def function(params, x):
        h = lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ params["again"]), x @ params["in"])
        h = lax.while_loop(lambda h: h.sum() > 1e9, lambda h: h * params["gain"], h)
        h = lax.cond(x.sum() > 0, lambda h: h + params["bias"], lambda h: 2 * h, h)
        return h @ params["out"]

    shapes = {"in": (3, 4), "again": (4, 4), "gain": (4,), "bias": (4,), "out": (4, 2)}
    spec = unit_spec(function, abstract(shapes), jax.ShapeDtypeStruct((2, 3), jnp.float32))
    assert places(spec.group("in")) == {
        ("in", 1),
        ("again", 0),
        ("again", 1),
        ("gain", 0),
        ("bias", 0),
        ("out", 0),
    }


def test_primitives_without_a_rule_pin_and_warn():
    def function(params, x):
        root = jnp.linalg.cholesky(params["in"] @ params["in"].T)
        return x @ params["before"] @ root @ params["out"]

    shapes = {"before": (3, 4), "in": (4, 5), "out": (4, 2)}
    spec = unit_spec(
        function, abstract(shapes), jax.ShapeDtypeStruct((2, 3), jnp.float32), check=False
    )
    assert sizes(spec) == {"in": 5}
    [warning] = spec.warnings
    assert "no rule for the primitive 'cholesky'" in warning
    assert "in axis 0" in warning


@pytest.mark.parametrize(
    ("activation", "is_scalable"),
    [
        (jax.nn.relu, True),
        (jax.nn.leaky_relu, True),
        (lambda x: jnp.where(x > 0, x, 0), True),
        (jnp.square, True),
        (lambda x: x * jnp.sign(x), True),
        (lambda x: jnp.maximum(x, 1), False),
        (jax.nn.relu6, False),
        (jax.nn.gelu, False),
        (jnp.tanh, False),
        (lambda x: x + 1, False),
        (lambda x: x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)), False),
    ],
)
def test_homogeneous_activations_can_be_rescaled(activation, is_scalable):
    spec = unit_spec(
        lambda p, x: activation(x @ p["in"]) @ p["out"],
        abstract({"in": (3, 4), "out": (4, 2)}),
        jax.ShapeDtypeStruct((2, 3), jnp.float32),
        check=is_scalable,
    )
    assert spec.group("in").is_scalable is is_scalable


def test_exponents_follow_the_degree():
    """Doubling what enters a square multiplies what leaves it by four."""
    spec = unit_spec(
        lambda p, x: jnp.square(jax.nn.relu(x @ p["in"])) @ p["out"],
        abstract({"in": (3, 4), "out": (4, 2)}),
        jax.ShapeDtypeStruct((2, 3), jnp.float32),
    )
    assert exponents(spec.group("in")) == {("in", 1): 1, ("out", 0): -2}


def test_axes_of_values():
    def function(params, x):
        h = jnp.concatenate([x @ params["a"], x @ params["b"]], -1)
        return h.reshape(-1, 5, 1)[..., 0] @ params["out"]

    shapes = {"a": (3, 2), "b": (3, 3), "out": (5, 4)}
    traced = trace(function, abstract(shapes), jax.ShapeDtypeStruct((7, 3), jnp.float32))
    axes = axes_of(traced)
    by_name = {e.primitive: axes.of(e.outputs[0]) for e in traced.program.equations}
    batch = Segment((None,), (7,))
    both = (Segment(("a",), (2,)), Segment(("b",), (3,)))
    assert by_name["concatenate"] == ((batch,), both)
    assert by_name["dot_general"] == ((batch,), (Segment((None,), (4,)),))
    assert axes.of(traced.program.inputs[2]) == (both, (Segment((None,), (4,)),))
    for equation in traced.program.equations:
        for variable in equation.outputs:
            assert tuple(sum(s.size for s in axis) for axis in axes.of(variable)) == variable.shape


def test_axes_inside_of_a_loop():
    case = SMALL["elman"](make=jax.eval_shape)
    traced = trace(case.apply, case.params, *case.args)
    axes = axes_of(traced)
    [loop] = [e for e in traced.program.equations if e.primitive == "loop"]
    [tanh] = [e for e in loop.bodies[0].equations if e.primitive == "tanh"]
    assert axes.of(tanh.outputs[0])[-1] == (Segment(("input",), (4,)),)


def test_the_check_draws_what_is_abstract():
    function, params, args = with_statistics(SMALL["mlp"](make=jax.eval_shape))
    spec = unit_spec(function, params, *args)
    check_spec(spec, function, params, *args, key=jax.random.key(3))


def test_what_the_condition_of_a_loop_reads_is_held_by_the_units():
    def predict(params, x):
        def not_yet(state):
            return jnp.vdot(state[0], params["gate"]) + state[1] < 3

        def once_more(state):
            return jnp.tanh(state[0]), state[1] + 1

        state, _ = jax.lax.while_loop(not_yet, once_more, (x @ params["in"], 0))
        return state @ params["out"]

    random = np.random.default_rng(0)
    shapes = {"in": (3, 4), "gate": (4,), "out": (4, 2)}
    params = {name: jnp.asarray(random.normal(size=shape)) for name, shape in shapes.items()}
    [group] = unit_spec(predict, params, jnp.ones(3)).groups
    assert [str(member) for member in group.members] == ["gate axis 0", "in axis 1", "out axis 0"]
    assert not group.is_scalable
