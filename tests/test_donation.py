"""States may be donated to the compiled step: no two of their leaves are the same buffer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import pfn, with_pfn
from pfn_optax.align import with_alignment
from pfn_optax.curvature import hessian_probe
from pfn_optax.dynamics import lyapunov_probe
from pfn_optax.propagation import activation_monitor, activation_taps, propagation_monitor
from pfn_optax.units import unit_spec

pytestmark = pytest.mark.usefixtures("unoptimized")

PARAMS = {"a": {"kernel": jnp.ones((3, 4))}, "b": {"kernel": jnp.ones((4, 2))}}
X = jnp.ones((5, 3))


def predict(params, x):
    return jnp.tanh(x @ params["a"]["kernel"]) @ params["b"]["kernel"]


SPEC = unit_spec(predict, PARAMS, X)

STATES = {
    "pfn": pfn(warm_start=True),
    "with_pfn": with_pfn(optax.adam(0.1)),
    "with_alignment": with_alignment(optax.adam(0.1), PARAMS, SPEC),
    "hessian_probe": hessian_probe(warm_start=True),
    "lyapunov_probe": lyapunov_probe(lambda params: lambda state: state, jnp.ones(3)),
    "propagation_monitor": propagation_monitor(weights=True),
}


@pytest.mark.parametrize("optimizer", STATES.values(), ids=STATES)
def test_the_leaves_of_a_state_are_buffers_of_their_own(optimizer):
    leaves = jax.tree.leaves(optimizer.init(PARAMS))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_a_monitored_step_may_be_given_its_state():
    monitor = activation_monitor(activation_taps(predict, PARAMS, X), every=2)
    optimizer = optax.chain(optax.sgd(0.1), propagation_monitor(every=2, weights=True))

    def step(carry):
        params, state, seen = carry
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state, monitor.update(seen, params, X)

    start = jax.tree.map(jnp.copy, PARAMS)
    carry = start, optimizer.init(start), monitor.init(start, X)
    donating = jax.jit(step, donate_argnums=0)
    for _ in range(4):
        carry = donating(carry)
    assert optax.tree.get(carry[1], "propagation_records") == 2
    assert carry[2].activation_records == 2
    np.testing.assert_allclose(carry[0]["a"]["kernel"], 0.9**4, rtol=1e-6)
