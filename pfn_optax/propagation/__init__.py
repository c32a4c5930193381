"""Signal propagation: what depth does to activations and to gradients.

At initialisation and infinite width (mean field), for any activation:

- `variance_map`, `correlation_map`: one layer; `mean_field`: their fixed points, chi_1, the depth
  scales xi_q and xi_c, and the phase, ordered or chaotic.
- `critical_line`: the variance of weights at which chi_1 = 1; `critical_init`: initializers there.
- `hermite_coefficients`, `isometry_decay`: an activation under layer norm.

Of real activations, weights and gradients, at any time, inside jit:

- `activation_rank`, `effective_rank`, `numerical_rank`, `mean_cosine`, `isometry_gap`: what a batch
  still spans; `singular_values`, `singular_profile`: also of weights.
- `dead_units`, `saturated_share`, `flat_share`: units that pass nothing on.
- `gradient_profile`, `log_slope`, `update_ratios`: gradients over depth.
- `first_nonfinite`: where the first NaN is; `leaf_names`, `layer_names`: what the numbers are of.
- `stream_init`, `stream_update`, `stream_read`: activation measures over many batches.

Of a model as it is, Linen, NNX or a function, by running its program anew:

- `activation_taps`: what is asked for (by default `activation_statistics`) of the preactivations
  and activations of every layer, also inside of scans; `backward_taps`: of the gradients at them.

While training, into a state of fixed size:

- `propagation_monitor`: an optax transformation, of gradients, updates and parameters;
  `activation_monitor`: of activations. `propagation_history`, `activation_history` read them;
  `write_json_lines`, `write_tensorboard`, `pfn_optax.drawing.draw_history` show what was read.

`pfn_optax.drawing.draw_phase_diagram` draws the phases of an activation.
"""

from pfn_optax.propagation.activation_monitor import (
    ActivationMonitor,
    ActivationMonitorState,
    activation_monitor,
)
from pfn_optax.propagation.backward_taps import BackwardTapped, BackwardTaps, backward_taps
from pfn_optax.propagation.critical import (
    CriticalInit,
    CriticalPoint,
    critical_init,
    critical_line,
)
from pfn_optax.propagation.gradients import (
    FirstNonfinite,
    first_nonfinite,
    gradient_profile,
    layer_names,
    leaf_names,
    log_slope,
    update_ratios,
)
from pfn_optax.propagation.hermite import hermite_coefficients, isometry_decay
from pfn_optax.propagation.history import (
    History,
    activation_history,
    propagation_history,
    write_json_lines,
    write_tensorboard,
)
from pfn_optax.propagation.mean_field import (
    MeanField,
    MeanFieldStatus,
    Phase,
    correlation_map,
    mean_field,
    variance_map,
)
from pfn_optax.propagation.monitor import PropagationMonitorState, propagation_monitor
from pfn_optax.propagation.rank import (
    activation_rank,
    effective_rank,
    isometry_gap,
    mean_cosine,
    numerical_rank,
    singular_profile,
    singular_values,
)
from pfn_optax.propagation.saturation import dead_units, flat_share, saturated_share
from pfn_optax.propagation.stream import (
    ActivationStream,
    ActivationSummary,
    stream_init,
    stream_read,
    stream_update,
)
from pfn_optax.propagation.tap_plan import TappedLayer
from pfn_optax.propagation.tap_statistics import activation_statistics
from pfn_optax.propagation.taps import ActivationTaps, Tapped, activation_taps

__all__ = [
    "ActivationMonitor",
    "ActivationMonitorState",
    "ActivationStream",
    "ActivationSummary",
    "ActivationTaps",
    "BackwardTapped",
    "BackwardTaps",
    "CriticalInit",
    "CriticalPoint",
    "FirstNonfinite",
    "History",
    "MeanField",
    "MeanFieldStatus",
    "Phase",
    "PropagationMonitorState",
    "Tapped",
    "TappedLayer",
    "activation_history",
    "activation_monitor",
    "activation_rank",
    "activation_statistics",
    "activation_taps",
    "backward_taps",
    "correlation_map",
    "critical_init",
    "critical_line",
    "dead_units",
    "effective_rank",
    "first_nonfinite",
    "flat_share",
    "gradient_profile",
    "hermite_coefficients",
    "isometry_decay",
    "isometry_gap",
    "layer_names",
    "leaf_names",
    "log_slope",
    "mean_cosine",
    "mean_field",
    "numerical_rank",
    "propagation_history",
    "propagation_monitor",
    "saturated_share",
    "singular_profile",
    "singular_values",
    "stream_init",
    "stream_read",
    "stream_update",
    "update_ratios",
    "variance_map",
    "write_json_lines",
    "write_tensorboard",
]
