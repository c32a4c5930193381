"""Monitors: what they record, that they change nothing, and what reads them."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax.drawing import draw_history
from pfn_optax.propagation import (
    History,
    activation_history,
    activation_monitor,
    activation_statistics,
    activation_taps,
    leaf_names,
    log_slope,
    propagation_history,
    propagation_monitor,
    write_json_lines,
    write_tensorboard,
)
from tests.zoo import loops

pytestmark = pytest.mark.usefixtures("unoptimized")
NAMES = ("Dense_0", "Dense_1", "Dense_10")


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(0)
    shapes = {"Dense_0": (5, 4), "Dense_1": (4, 4), "Dense_10": (4, 2)}
    return {
        name: {
            "kernel": jnp.asarray(draw.normal(size=shape), jnp.float32),
            "bias": jnp.zeros(shape[1]),
        }
        for name, shape in shapes.items()
    }


def predict(params, x):
    for name in NAMES:
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = jnp.tanh(x) if name != NAMES[-1] else x
    return x


def loss(params, x):
    return jnp.mean(predict(params, x) ** 2)


def inputs():
    return np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)


def train(optimizer, params, steps=7):
    """Parameters before, gradients and states after each step, in one program."""

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            grads = jax.grad(loss)(params, inputs())
            updates, state = optimizer.update(grads, state, params, grad=grads)
            return (optax.apply_updates(params, updates), state), (params, grads, updates, state)

        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1]

    return run(params)


def at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def norms(tree):
    flat = [np.concatenate([np.ravel(v) for v in tree[name].values()]) for name in NAMES]
    return np.asarray([np.linalg.norm(leaf) for leaf in flat])


@pytest.fixture(scope="module")
def trained(params):
    optimizer = optax.chain(
        optax.adam(0.05), propagation_monitor(every=2, capacity=2, weights=True)
    )
    return train(optimizer, params)


def test_what_is_recorded_and_that_training_is_bit_for_bit_the_same(params, trained):
    before, grads, updates, states = trained
    plain = train(optax.chain(optax.adam(0.05), optax.identity()), params)
    chex.assert_trees_all_equal((before, grads, updates), plain[:3])
    assert optax.tree.get(states, "propagation_records").tolist() == [0, 1, 1, 2, 2, 3, 3]
    history = propagation_history(at(states, -1), params)
    assert history.layers == NAMES
    assert history.steps.tolist() == [4, 6]  # the last two
    for row, step in enumerate((3, 5)):
        now = [norms(at(tree, step)) for tree in (before, grads, updates)]
        np.testing.assert_allclose(history.values["parameter_norm"][row], now[0], rtol=1e-5)
        np.testing.assert_allclose(history.values["gradient_norm"][row], now[1], rtol=1e-5)
        np.testing.assert_allclose(history.values["update_ratio"][row], now[2] / now[0], rtol=1e-5)
        kernels = [np.asarray(at(before, step)[name]["kernel"]) for name in NAMES]
        singular = [np.linalg.svd(kernel, compute_uv=False) for kernel in kernels]
        ranks = [(values**2).sum() ** 2 / (values**4).sum() for values in singular]
        np.testing.assert_allclose(history.values["weight_rank"][row], ranks, rtol=1e-4)
        top = [values[0] for values in singular]
        np.testing.assert_allclose(history.values["spectral_norm"][row], top, rtol=0.02)
        slope = optax.tree.get(at(states, -1), "propagation_slope")[[1, 0][row]]
        np.testing.assert_allclose(slope, log_slope(jnp.asarray(now[1])), rtol=1e-4)
    empty = propagation_history(at(states, 0), params)
    assert empty.steps.shape == (0,)
    assert empty.values["gradient_norm"].shape == (0, 3)


def test_the_first_that_is_not_finite_and_its_step(params):
    monitor = propagation_monitor(every=10)
    update, state = jax.jit(monitor.update), monitor.init(params)
    broken = jax.tree.map(jnp.copy, params)
    broken["Dense_1"]["kernel"] = broken["Dense_1"]["kernel"].at[0, 0].set(jnp.inf)
    worse = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    for grads in (params, params, broken, worse):
        updates, state = update(grads, state, params)
        chex.assert_trees_all_equal(updates, grads)
    assert state.propagation_nonfinite_step == 3
    assert leaf_names(params)[state.propagation_nonfinite_leaf] == "Dense_1/kernel"
    assert not state.propagation_records


def test_order_without_weights_and_without_gradients(params):
    order = ("Dense_10", "Dense_0")
    monitor = propagation_monitor(every=1, order=order)
    zero = jax.tree.map(jnp.zeros_like, params)
    _, state = jax.jit(monitor.update)(params, monitor.init(params), zero)
    history = propagation_history(state, order=order)
    assert set(history.values) == {"gradient_norm", "parameter_norm", "update_ratio"}
    np.testing.assert_allclose(history.values["gradient_norm"][0], norms(params)[[2, 0]], rtol=1e-6)
    assert np.isinf(history.values["update_ratio"]).all()  # of parameters that are zero


def test_map_params_leaves_the_records_alone(params):
    optimizer = optax.chain(optax.trace(0.9), propagation_monitor(every=1, capacity=2))
    _, state = optimizer.update(params, optimizer.init(params), params)
    doubled = optax.tree.map_params(optimizer, lambda leaf: 2 * leaf, state)
    chex.assert_trees_all_equal(doubled[0].trace, jax.tree.map(lambda leaf: 2 * leaf, params))
    chex.assert_trees_all_equal(doubled[1], state[1])


def test_state_keeps_its_structure_and_maps(params):
    monitor = propagation_monitor(every=2, weights=True)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    for tree in (params, half):
        state = monitor.init(tree)
        _, after = jax.eval_shape(monitor.update, tree, state, tree)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(after))
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    state, update = jax.vmap(monitor.init)(many), jax.jit(jax.vmap(monitor.update))
    for _ in range(2):
        _, state = update(many, state, many)
    np.testing.assert_allclose(state.propagation_parameter_norm[1, 0], 2 * norms(params), rtol=1e-5)


# Activations.


@pytest.fixture(scope="module")
def recorded(params):
    taps = activation_taps(predict, params, inputs())
    monitor = activation_monitor(taps, every=2, capacity=3)

    @jax.jit
    def run(params):
        def step(state, scale):
            now = jax.tree.map(lambda leaf: scale * leaf, params)
            return monitor.update(state, now, inputs()), None

        scales = jnp.arange(1.0, 10.0)
        return jax.lax.scan(step, monitor.init(params, inputs()), scales)[0]

    return monitor, run(params)


def test_activations_of_the_steps_that_were_due(params, recorded):
    monitor, state = recorded
    assert monitor.names == NAMES
    history = activation_history(state, monitor.names)
    assert history.layers == NAMES
    assert history.steps.tolist() == [4, 6, 8]
    for row, scale in enumerate((4, 6, 8)):
        pre = inputs() @ (scale * params["Dense_0"]["kernel"])
        expected = activation_statistics(pre, jnp.tanh(pre), bounds=(-1, 1))
        for name, value in expected.items():
            np.testing.assert_allclose(history.values[name][row, 0], value, rtol=1e-4)
    assert np.isnan(history.values["saturated_share"][:, 2]).all()


def test_nothing_runs_between_records_under_vmap(params):
    calls = []

    def counted(params, x):
        jax.debug.callback(lambda _: calls.append(1), x[0, 0])
        return predict(params, x)

    monitor = activation_monitor(
        activation_taps(counted, params, inputs(), statistics=lambda pre, post: post.mean()),
        every=2,
    )
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    state = jax.vmap(lambda params: monitor.init(params, inputs()))(many)
    update = jax.jit(jax.vmap(lambda state, params: monitor.update(state, params, inputs())))
    for step in range(1, 4):
        state = update(state, many)
        jax.effects_barrier()
        assert bool(calls) == (step > 1)
    one = activation_history(at(state, 1), monitor.names)
    assert list(one.values) == ["value"]
    assert one.steps.tolist() == [2]


def test_layers_in_a_scan_are_rows():
    case = loops.scanned_layers(num_layers=3)
    taps = activation_taps(
        case.apply, case.params, *case.args, statistics=lambda pre, post: {"q": jnp.mean(pre**2)}
    )
    monitor = activation_monitor(taps, every=1)
    state = jax.jit(monitor.update)(monitor.init(case.params, *case.args), case.params, *case.args)
    history = activation_history(state, monitor.names)
    assert history.layers == (
        "stem",
        *(f"layers/{name}[{index}]" for name in ("up", "down") for index in range(3)),
        "head",
    )
    assert history.values["q"].shape == (1, 8)


# What reads them.


@pytest.fixture
def history():
    values = {"gradient_norm": np.asarray([[1.0, 0.01], [np.nan, 0.1], [2.0, np.inf]])}
    return History(np.asarray([50, 100, 150]), ("a", "b"), values)


def test_json_lines_go_on_where_they_stopped(history, tmp_path):
    file = tmp_path / "records.jsonl"
    first = History(
        history.steps[:2], history.layers, {n: v[:2] for n, v in history.values.items()}
    )
    assert write_json_lines(first, file) == 2
    assert write_json_lines(history, file) == 1
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150]
    assert lines[1]["gradient_norm"] == {"a": None, "b": 0.1}
    (tmp_path / "other").write_text("thesis\n")
    with pytest.raises(ValueError, match="is no JSON lines file of records"):
        write_json_lines(history, tmp_path / "other")


def test_tensorboard_reads_its_scalars(history, tmp_path):
    from tensorboardX import SummaryWriter

    written = []

    class Recording(SummaryWriter):
        def add_scalar(self, tag, value, step):
            written.append((tag, value, step))
            super().add_scalar(tag, value, step)

    with Recording(str(tmp_path)) as writer:
        assert write_tensorboard(history, writer, after=50) == 150
    assert [step for *_, step in written] == [100, 100, 150, 150]
    assert written[1] == ("gradient_norm/b", 0.1, 100)
    assert write_tensorboard(history, tmp_path / "folder") == 150
    [file] = (tmp_path / "folder").iterdir()
    assert b"gradient_norm/a" in file.read_bytes()


def test_heat_map_of_depth_and_time(history):
    figure = draw_history(history, "gradient_norm")
    figure.canvas.draw()
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50", "100", "150"]
    drawn = axes.collections[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), [[False, True, False], [0, 0, True]])
    assert bar.get_yscale() == "log"
    assert draw_history(history, "gradient_norm", axes=axes) is figure
    with pytest.raises(ValueError, match="no measure 'rank'; there are gradient_norm"):
        draw_history(history, "rank")
    with pytest.raises(ValueError, match="no record yet"):
        draw_history(History(history.steps[:0], ("a",), {"q": np.zeros((0, 1))}), "q")


def test_states_come_back_from_orbax(params, trained, recorded, tmp_path):
    import orbax.checkpoint as ocp

    monitor, activations = recorded
    states = {"optimizer": at(trained[3], -1), "activations": activations}
    optimizer = optax.chain(
        optax.adam(0.05), propagation_monitor(every=2, capacity=2, weights=True)
    )

    def init(params):
        return {
            "optimizer": optimizer.init(params),
            "activations": monitor.init(params, inputs()),
        }

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", states)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(init, params))
    chex.assert_trees_all_equal(restored, states)
    again = propagation_history(restored["optimizer"], params)
    assert again.steps.tolist() == [4, 6]
    assert activation_history(restored["activations"], monitor.names).steps.tolist() == [4, 6, 8]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: propagation_monitor(every=0), "every must be at least 1, got 0"),
        (lambda p: propagation_monitor(capacity=0), "capacity must be at least 1, got 0"),
        (lambda p: propagation_monitor(order=["x"]).init(p), "no layer 'x'"),
        (lambda p: propagation_monitor().init({"n": jnp.ones(2, int)}), "no real floating leaves"),
        (lambda p: propagation_monitor().update(p, propagation_monitor().init(p)), "needs the par"),
        (lambda p: propagation_history(optax.sgd(1.0).init(p), p), "one propagation_.*, found 0"),
        (
            lambda p: propagation_history(propagation_monitor().init(p), order=["a"]),
            "recorded 3 layers, got 1 names",
        ),
        (
            lambda p: activation_monitor(activation_taps(predict, p, inputs()), every=0),
            "every must be at least 1",
        ),
        (
            lambda p: activation_history(
                activation_monitor(activation_taps(predict, p, inputs())).init(p, inputs()), ["a"]
            ),
            "names must be those of the layers recorded, Dense_0, .*got a",
        ),
    ],
)
def test_bad_input_is_named(call, message, params):
    with pytest.raises(ValueError, match=message):
        call(params)
