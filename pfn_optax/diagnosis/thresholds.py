"""What measurements are compared with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of `diagnose`; each says where it comes from.

    Theory is that of mean field where there is one. "Healthy" are networks that train, measured at
    initialisation and after 300 steps: MLPs (ReLU, tanh, GELU, sigmoid) of 2 to 20 layers, CNNs
    with and without batch norm, ResNets, pre-LN transformers, and GRU, LSTM and plain RNNs.

    Attributes:
        input_rms: root mean square of what the first layer is applied to, at most. The sharpness
            along its weights grows with the square, so at 10 a learning rate must be 100 times
            smaller. Healthy: .3 to 1.
        input_rms_least: the same, at least. Its gradients shrink with it.
        input_offset: magnitude of the mean over the standard deviation of that. The condition
            number of the first layer grows with the square; of images it is 2.
        input_dominance: share of that energy in one of at least four features; 1 over their number
            if they are alike.
        signal_loss: root mean square of what a layer is applied to over that of the first, at
            least. At a variance of 1 / fan-in (`lecun_normal`) each ReLU layer takes it by
            1 / sqrt(2), to 1e-3 in 20. Healthy: 1.4e-3 (such a ReLU network of 20 layers) and more.
        signal_growth: the same, at most. Criticality keeps it at 1; residual branches without norm
            add up to 6 in healthy networks.
        layer_loss: root mean square of activations over that of what a layer is applied to, at
            least: one layer alone. Healthy: .25 to 4.3.
        loss_over_chance: loss over that with a last layer of zeros. Logits of variance 1, as of
            `lecun_normal`, make the cross entropy .5 nats larger, 1.2 times that of ten classes.
            Healthy: .1 to 1.7.
        output_rms: root mean square of what the last layer puts out, for that to matter.
        vanishing: norm of the gradient at the first layer over the largest at any, at least, as
            `signal_loss`. Healthy: 1.6e-3 (that same network) and more.
        exploding: the same over that at the last hidden layer, at most. ReLU after batch norm
            multiplies it by sqrt(pi / (pi - 1)) = 1.21 a layer, to 1e3 in 36.
        vanishing_per_step: nats by which the gradient shrinks with each step back in time. Gates
            that are half open, as before training, lose .7; healthy: .3.
        vanishing_in_time: for that to matter, the gradient at the first step over that at the last.
        exploding_in_time: the same, at most.
        dead_units: share of a layer's units that are zero for every example. Where all examples
            have come to look alike, a ReLU is on for all or off for all, so that half of the units
            are dead: more is not explained by depth. Healthy: up to .47.
        all_dead: share from which next to nothing passes the layer.
        saturated: share of activations within 2.5% of an end of their range. Of tanh of Gaussian
            numbers of variance 1 it is .07, of variance 4 it is .36.
        saturated_gates: the same of sigmoids in recurrent cells, which close and open on purpose.
        varying: share of the energy of preactivations that differs between examples, 1 less their
            mean cosine, at least. After L layers of ReLU 9 pi^2 / (2 L^2), .4% after 100; each
            sigmoid layer takes it by 10 to 16. Healthy: 7e-4 (three sigmoid layers) and more.
        directions: activation rank of preactivations without their mean, at least, where the first
            layer has twice that and there are three outputs or more. Sixty ReLU layers by He's
            rule, or eight of attention without residuals, leave 1.0 to 1.2; healthy: 1.6 and more.
        kernel_rank: of a matrix with 16 rows and columns or more, (sum s^2)^2 / sum s^4 of its
            singular values s, at least. Half of the smaller side at random.
        twin_units: share of units with the same weights and the same gradient as another. Random
            initialisation makes none.
        critical: factor beyond a limit from which a warning is critical.
        loss_rise: relative rise of the loss in one step on its own batch from which smaller steps
            are tried. At the edge of stability losses zigzag by some percent.
        small_gain: the steps are too large if they gain less than this share of what smaller ones
            gain.
        slow_progress: share of the loss that a step takes off, to first order, below which larger
            steps are tried: a factor of e would take a hundred thousand steps. Networks with usual
            learning rates have 1e-4 to 1e-1.
        no_progress: the same, below which nothing is learnt: ten million steps.
        larger_gain: share of the loss that a dozen larger steps must take off to say that they are
            better.
        edge_of_stability: largest eigenvalue of the Hessian, as the optimizer sees it, over what is
            stable on a quadratic.
        small_loss: loss below which its scale is looked at. At the start a mean of cross-entropies
            or of squared errors is near 1.
        large_loss: the same from above, over 1 + the mean square of what the last layer puts out,
            which a squared error grows with.
        scale_response: growth of the update where the gradient grows by 2^20 from which the scale
            of the loss matters: 1 for Adam and its like, unless its epsilon does.
        lost_updates: share of the update's energy that rounding takes away.
        most_updates_lost: the same, from which nothing is learnt.
        underflow: share of the gradient's entries that are 0 only for want of range.
        most_underflow: the same, from which next to nothing is learnt.
        cut_rank: directions through the minimum cut over those that the ends need.
        severe_cut_rank: the same, below which nearly everything is lost.
        needed_rank: directions beyond which no more are asked for: autoencoders and embeddings
            have fewer than their ends on purpose.
        lyapunov_exponent: growth of the distance between nearby inputs, in nats per layer. That of
            healthy networks is below 0.1.
    """

    input_rms: float = 10.0
    input_rms_least: float = 0.03
    input_offset: float = 5.0
    input_dominance: float = 0.95
    signal_loss: float = 1e-3
    signal_growth: float = 100.0
    layer_loss: float = 0.03
    loss_over_chance: float = 3.0
    output_rms: float = 5.0
    vanishing: float = 1e-3
    exploding: float = 1e3
    vanishing_per_step: float = 0.7
    vanishing_in_time: float = 1e-4
    exploding_in_time: float = 1e3
    dead_units: float = 0.75
    all_dead: float = 0.98
    saturated: float = 0.5
    saturated_gates: float = 0.9
    varying: float = 1e-4
    directions: float = 1.3
    kernel_rank: float = 1.5
    twin_units: float = 0.5
    critical: float = 30.0
    loss_rise: float = 0.1
    small_gain: float = 0.1
    slow_progress: float = 1e-5
    no_progress: float = 1e-7
    larger_gain: float = 0.05
    edge_of_stability: float = 1.0
    small_loss: float = 1e-5
    large_loss: float = 1e3
    scale_response: float = 2.0
    lost_updates: float = 0.5
    most_updates_lost: float = 0.8
    underflow: float = 0.2
    most_underflow: float = 0.5
    cut_rank: float = 0.5
    severe_cut_rank: float = 0.25
    needed_rank: int = 16
    lyapunov_exponent: float = 0.2
