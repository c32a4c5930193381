"""Use an installed pfn_optax: `core` with what it declares, `all` with its optional packages."""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import pfn_optax
from pfn_optax import Status, cut_report, graph_from_loss, pfn, with_pfn

which = sys.argv[1]
home = Path(pfn_optax.__file__).parent
assert home.is_relative_to(sys.prefix), f"not the installed one: {home}"
assert importlib.metadata.version("pfn_optax") == pfn_optax.__version__
assert (home / "py.typed").exists(), "py.typed is not in the wheel"
assert importlib.util.find_spec("tests") is None
assert importlib.util.find_spec("experiments") is None

OPTIONAL = {"matplotlib", "flax", "matfree", "rich", "tqdm", "tyro"}
for module in pkgutil.walk_packages(pfn_optax.__path__, "pfn_optax."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if which != "core" or missing not in OPTIONAL:
            raise


def init(key, sizes):
    """Weights of an MLP."""
    keys = jax.random.split(key, len(sizes) - 1)
    return {
        f"layer{i}": {"w": jax.random.normal(keys[i], sizes[i : i + 2]) * (2 / sizes[i]) ** 0.5}
        for i in range(len(sizes) - 1)
    }


def loss(params, batch):
    """Cross-entropy."""
    x, labels = batch
    *hidden, last = [params[name]["w"] for name in sorted(params)]
    for w in hidden:
        x = jax.nn.relu(x @ w)
    return optax.softmax_cross_entropy_with_integer_labels(x @ last, labels).mean()


params = init(jax.random.key(0), (8, 32, 3, 32, 4))
x = jax.random.normal(jax.random.key(1), (128, 8))
batch = x, jnp.argmax(x[:, :4], -1)
for optimizer in (
    optax.chain(pfn(every=10, graph=graph_from_loss(loss, params, batch)), optax.sgd(0.05)),
    with_pfn(optax.adam(1e-2), every=10),
):

    @jax.jit
    def step(params, state, optimizer=optimizer):
        """One step of training."""
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    trained, state = params, optimizer.init(params)
    for _ in range(100):
        trained, state, value = step(trained, state)
    assert optax.tree.get(state, "pfn_status") == Status.CERTIFIED
    assert float(value) < 0.8 * float(loss(params, batch)), float(value)
    assert cut_report(state, trained).bottlenecks

found = pfn_optax.diagnose(loss, params, batch, optimizer=optax.adam(1e-3))
assert "layers" in str(found)
if which == "all":
    found.html("page.html")
    pfn_optax.draw_flow(state, params)
versions = {module.__name__: module.__version__ for module in (pfn_optax, jax, optax)}
print(which, versions)
