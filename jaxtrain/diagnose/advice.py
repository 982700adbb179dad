"""What to try next, for each finding, in the order of the lecture.

Preprocessing, optimizer, learning rate and annealing come first; then L2, dropout, more data.

Imports signs. Its numbers are those that `tryout` tries. The fact that surprises: advice knows the run. What is done
already is not advised again, and a number is given wherever the run's own is known. Of curves that another program
wrote nothing is known, and its reader has no flags and scripts of ours: advice is the same, in the words of the field.

References:
  CS231n, https://cs231n.github.io/neural-networks-3/ (the order), https://cs231n.github.io/neural-networks-2/
"""

from jaxtrain.diagnose.signs import Signs

_TIMES = {10: "10 times", 3: "3 times", 1 / 3: "a third of", 0.1: "a tenth of"}
"""How many times the learning rate, in words."""


SHRINKING = 0.01
"""Share of the weights that decay takes away in a step, above which steps are large by it alone."""


def shrinking(learning_rate: float, weight_decay: float, convention: object) -> float:
    """The share of the weights that decay takes away in a step at the peak of the schedule, see `config.Adam.decay`."""
    return weight_decay * (1.0 if convention == "paper" else learning_rate)


def advise(name: str, signs: Signs) -> tuple[str, ...]:
    """Sentences, the first to be tried first."""
    return tuple(line for line in _ADVICE[name](signs) if line)


def _rate(signs: Signs, factor: float) -> str:
    """A learning rate, in numbers where the run's is known."""
    rate = signs.facts.get("learning_rate")
    if rate is None:
        return f"{_TIMES[factor]} the learning rate"
    return f"--hyper.learning_rate {float(rate) * factor:.2g} (now {float(rate):.2g})"


def _ours(signs: Signs, text: str) -> str:
    """What only a user of jaxtrain can do; nothing of another program's curves."""
    return "" if signs.bare else text


def _annealing(signs: Signs) -> str:
    if signs.facts.get("schedule") not in (None, "constant"):
        return ""
    if signs.bare:
        return "Anneal the learning rate, as along a cosine, if that is not done."
    return "Anneal the learning rate (config.schedule: cosine)."


def _batch_norm(signs: Signs) -> str:
    if signs.facts.get("batch_norm"):
        return ""
    return "Put Batch Normalization before each nonlinearity; it keeps activations in range whatever the weights are."


def _normalise(signs: Signs) -> str:
    if signs.bare:
        return (
            "Normalise the inputs to mean 0 and deviation 1, and so the targets of a regression, if that is not done."
        )
    return "Normalise the inputs (data.preprocess: standardize, for tables standardize_features)."


def _if_raw(signs: Signs) -> str:
    """Where inputs are known to be raw, or nothing is known of them."""
    return _normalise(signs) if signs.bare or signs.facts.get("preprocess") == "none" else ""


def _warm_up(signs: Signs) -> str:
    return "Warm the rate up over the first epoch" + _ours(signs, " (config.schedule.warmup 1)")


def _clip(signs: Signs) -> str:
    return "Clip the gradient" + (" to a length of 1" if signs.bare else " (hyper.clip_norm 1)")


def _diverged(signs: Signs):
    yield _if_raw(signs)
    finds = _ours(signs, "; scripts/lr_range.py finds the largest that holds")
    yield f"Try {_rate(signs, 0.1)}, then a third of that{finds}."
    yield f"{_warm_up(signs)}, or c{_clip(signs)[1:]}."
    yield _batch_norm(signs)


def _not_normalised(signs: Signs):
    yield _normalise(signs)
    yield _batch_norm(signs)


def _wrong_target(signs: Signs):
    still = not signs.end(signs.quality("train")) > 0.15  # a rate that is far too large keeps training at chance, too
    yield f"Try {_rate(signs, 0.1)}." if signs.bare and still else ""
    yield (
        "Train twenty examples by heart; where that fails, the mistake is in the network or the loss, not in the data."
        if signs.bare
        else "Run scripts/check.py: it trains twenty examples by heart, and looks at what the loss compares."
    )
    where = _ours(signs, " (TensorBoard, IMAGES: batch)")
    yield f"Look at a dozen examples with their labels, as the network gets them{where}."
    yield (
        "Let the network end in logits, without softmax; see that outputs and labels belong to the same examples, and"
        " that the loss has the right sign."
    )


def _exploding(signs: Signs):
    yield _if_raw(signs)
    yield "Initialise by He's rule (kernel_init: he), which keeps the size of activations from layer to layer."
    yield _batch_norm(signs)
    yield f"{_clip(signs)}."


def _vanishing(signs: Signs):
    yield "Use ReLU in the place of sigmoid or tanh, initialised by He's rule (kernel_init: he)."
    yield _batch_norm(signs)
    yield "Use fewer layers, or residual connections."


def _dying(signs: Signs):
    yield f"Try {_rate(signs, 1 / 3)}: too large a step kills units for good."
    yield "Begin with biases of 0 and He's initialisation."
    yield _batch_norm(signs)
    yield "Use a nonlinearity that is never quite off: leaky_relu, gelu, silu."


def _too_high(signs: Signs):
    rate, decay = (float(signs.facts.get(name) or 0) for name in ("learning_rate", "weight_decay"))
    shrinks = shrinking(rate, decay, signs.facts.get("decay"))
    if shrinks > SHRINKING:
        yield f"Less weight decay, or none: it shrinks the weights by {100 * shrinks:.2g} % in each step."
    yield _with_range(signs, f"Try {_rate(signs, 1 / 3)}, then {_then(signs, 0.1)}")
    yield _normalise(signs) if signs.bare else ""
    yield f"{_warm_up(signs)}."
    yield _annealing(signs)


def _too_low(signs: Signs):
    yield _with_range(signs, f"Try {_rate(signs, 3)}, then {_then(signs, 10)}")
    yield (
        "Use Adam (config.optimizer), which scales the steps of each weight."
        if signs.facts.get("optimizer") in ("Sgd", "Muon")
        else ""
    )
    yield "Train for more epochs."


def _with_range(signs: Signs, text: str) -> str:
    return f"{text}{_ours(signs, '; scripts/lr_range.py shows the range')}."


def _then(signs: Signs, factor: float) -> str:
    """A second rate, in few words."""
    return _TIMES[factor].removesuffix(" of") if signs.bare else _rate(signs, factor)


def _plateau(signs: Signs):
    yield _annealing(signs) or "Reduce the rate when validation stalls (config.plateau)."
    yield f"Or try {_rate(signs, 1 / 3)}."


def _stale(signs: Signs):
    yield "Give BatchNorm a momentum of 0.9 to 0.99 (jaxtrain's default is 0.9); close to 1 the averages lag behind."
    yield "Average weights only with statistics taken anew (Run's ema and swa do so)."


def _noisy(signs: Signs):
    yield "Take larger batches (--batch_size 32 to 128)."
    yield f"Or smaller steps: {_rate(signs, 1 / 3)}."
    yield _annealing(signs)


def _label_noise(signs: Signs):
    yield "Look at the most confident mistakes (report.html), and mend or leave out what is labelled wrongly."
    yield "Stop early (config.early_stopping): the true labels are learnt before the wrong ones."
    yield "Smooth the labels (hyper.label_smoothing 0.1) or mix examples (hyper.mixup 0.2)."


def _leaked(signs: Signs):
    finds = _ours(signs, " (scripts/check.py finds equal ones)")
    yield (
        f"Look for examples that are in both splits{finds}; split by person, place or source where several examples"
        " come from one."
    )
    yield (
        "Measure the training loss in evaluation mode after each epoch, to compare like with like."
        if signs.bare
        else ""
    )
    yield "Trust the test split meanwhile."


def _overfitting(signs: Signs):
    if signs.bare:
        yield from _overfitting_elsewhere(signs)
        return
    decay, dropout = (float(signs.facts.get(name) or 0) for name in ("weight_decay", "dropout_rate"))
    usual = 1e-3 if signs.facts.get("optimizer") in ("Sgd", "Muon") else 0.1
    now = f", now {decay:.2g}" if decay else ""
    yield f"More weight decay (--hyper.weight_decay {10 * decay or usual:.2g}{now})."
    now = f", now {dropout:.2g}" if dropout else ""
    yield f"More dropout (--hyper.dropout_rate {0.3 if dropout < 0.3 else 0.5}{now})." if dropout < 0.5 else ""
    yield "Augmentation (config.augment: crop, flip), or more data: nothing helps as much."
    yield "" if signs.facts.get("patience") else "Keep the best epoch (config.early_stopping)."


def _overfitting_elsewhere(signs: Signs):
    best = f": here those of {signs.when(signs.best_row(signs.val_loss))}" if signs.val_rise > 0.02 else ""
    yield "Regularise: more weight decay, more dropout; of trees, fewer or shallower ones."
    yield "Augment the training examples, or get more of them: nothing helps as much."
    yield f"Stop early, or keep the best weights{best}."
    yield "Look at the most confident mistakes: wrong labels, learnt by heart, look the same in the curves."


def _underfitting(signs: Signs):
    dropout = signs.facts.get("dropout_rate")
    yield f"Less dropout (now {float(dropout):.2g})." if dropout and float(dropout) > 0.3 else ""
    longer = f"More epochs, and then a search for the learning rate{_ours(signs, ' (scripts/search.py)')}."
    larger = "A larger network: wider first, then deeper."
    yield from (longer, larger) if signs.is_on_its_way else (larger, longer)
    yield _normalise(signs) if signs.bare else ""
    yield _batch_norm(signs)


def _healthy(signs: Signs):
    if signs.bare:
        yield "To gain more: search learning rate, decay and dropout, then average the answers of several seeds."
        return
    yield "To gain more: search learning rate, decay and dropout (scripts/search.py), then combine seeds (--seeds 8)."


_ADVICE = {
    "diverged": _diverged,
    "not_normalised": _not_normalised,
    "wrong_target": _wrong_target,
    "exploding_gradients": _exploding,
    "vanishing_gradients": _vanishing,
    "dying_relus": _dying,
    "lr_too_high": _too_high,
    "lr_too_low": _too_low,
    "plateau": _plateau,
    "stale_batch_norm": _stale,
    "noisy": _noisy,
    "label_noise": _label_noise,
    "leaked_validation": _leaked,
    "overfitting": _overfitting,
    "underfitting": _underfitting,
    "healthy": _healthy,
}
