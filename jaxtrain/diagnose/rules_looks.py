"""Rules that read looks: what the network is given, its gradients and its units.

Imports signs and findings. The fact that surprises: gradients are judged before the first step, while all is as it was
begun; later they show the training, and no longer the network.
"""

import math

from jaxtrain.diagnose.degrees import number, percent, ramp, sure
from jaxtrain.diagnose.findings import Finding
from jaxtrain.diagnose.signs import Signs


def not_normalised(signs: Signs) -> Finding | None:
    mean, std, ratio = (signs.looked(f"input_{name}") for name in ("mean", "std", "feature_ratio"))
    size = math.hypot(mean, std)
    degree = max(ramp(math.log10(max(size, 1e-9)), 0.7, 1.3), ramp(-math.log10(max(size, 1e-9)), 1.5, 2.5))
    degree = max(degree, ramp(math.log10(max(ratio, 1.0)) if ratio == ratio else math.nan, 1.0, 1.7))
    if degree <= 0:
        return None
    spread = f", and the size of one feature is {number(ratio)} times that of another" if ratio > 10 else ""
    return Finding(
        "not_normalised",
        f"The network gets inputs of mean {number(mean)} and standard deviation {number(std)}{spread}; initial"
        " weights and learning rates are made for mean 0 and deviation 1.",
        sure(degree, 0.7),
        evidence={"input_mean": mean, "input_std": std, **({"input_feature_ratio": ratio} if ratio > 0 else {})},
    )


def exploding_gradients(signs: Signs) -> Finding | None:
    norms, first = signs.first_gradients(), signs.first("gradient_norm")
    degree = ramp(math.log10(first), 2.0, 2.8) if first > 0 else 0.0
    if degree <= 0:
        return None
    layer = max(norms, key=lambda name: norms[name], default="")
    of_layer = f" (that of {layer} {number(norms[layer])})" if layer else ""
    return Finding(
        "exploding_gradients",
        f"Before the first step the gradient has a length of {number(first)}{of_layer}, where about 1 is usual:"
        " weights or activations are far too large.",
        sure(degree, 0.6),
        epoch=0.0,
        evidence={"gradient_norm": first},
    )


def vanishing_gradients(signs: Signs) -> Finding | None:
    norms = {layer: norm for layer, norm in signs.first_gradients().items() if 0 < norm < math.inf}
    if len(norms) < 3:
        return None
    weakest, strongest = min(norms, key=lambda name: norms[name]), max(norms, key=lambda name: norms[name])
    ratio = norms[weakest] / norms[strongest]
    degree = ramp(-math.log10(ratio), 2.3, 3.5)
    if degree <= 0:
        return None
    return Finding(
        "vanishing_gradients",
        f"The gradient of {weakest} is {number(1 / ratio)} times as small as that of {strongest}: layers far from the"
        " loss hardly learn from it.",
        sure(degree, 0.6),
        epoch=0.0,
        evidence={"smallest_gradient": norms[weakest], "largest_gradient": norms[strongest]},
    )


def dying_relus(signs: Signs) -> Finding | None:
    shares = signs.dead()
    if not shares:
        return None
    layer = max(shares, key=lambda name: shares[name])
    degree = ramp(shares[layer], 0.35, 0.8)
    if degree <= 0:
        return None
    return Finding(
        "dying_relus",
        f"{percent(shares[layer])} of the units of {layer} get no gradient from any example of a batch, as behind a"
        " ReLU that is never on: they will not learn again by themselves.",
        # Dead from the beginning they are the cause; units that have died are more often a sign of something else.
        sure(degree, 0.6, 0.78 if signs.died > 0.4 else 0.98),
        evidence={"dead_share": shares[layer]},
    )


def noisy(signs: Signs) -> Finding | None:
    batch = signs.batch
    wobble, scale = signs.wobble(signs.val_loss), signs.noise_scale
    small = ramp(batch, 16, 4) if batch == batch else 0.0
    degree = max(small * ramp(wobble, 0.01, 0.06), 0.5 * small)
    if degree <= 0:
        return None
    noise = f" (the gradient noise scale is about {number(scale)} examples)" if 0 < scale < math.inf else ""
    moves = f", and the validation loss goes up and down by {percent(wobble)} of itself" if wobble >= 0 else ""
    return Finding(
        "noisy",
        f"Batches of {batch:.0f} examples{noise}: each step follows its few examples more than the data{moves}.",
        sure(degree),
        evidence={"batch_size": batch, "wobble": wobble, "noise_scale": scale},
    )
