"""An ensemble of MLPs in PyTorch: `torch.func.vmap` over stacked parameters, as in its model-ensembling tutorial.

    python benchmarks/peers/torch_func.py --members 8 --data data

`vmap` refuses BatchNorm's running averages, which are updated in place: as torch's own message advises, there are none,
and the test images are normalised by their own statistics. All members see the same batches, in the same order; AdamW
acts on the stacked parameters, in one kernel.
"""

import os

from contestant import (
    DROPOUT_RATE,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Contestant,
    Work,
    normalise,
    num_cores,
    read_mnist,
    serve,
)


def make(work: Work) -> Contestant:
    """The training that `work` asks for."""
    os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))
    import torch
    from torch import nn
    from torch.func import functional_call, grad, stack_module_state, vmap

    torch.manual_seed(work.seed)
    torch.set_num_threads(num_cores())
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def network() -> nn.Module:
        def dense(size: int, width: int) -> list[nn.Module]:
            norm = nn.BatchNorm1d(width, track_running_stats=False)
            return [nn.Linear(size, width, bias=False), norm, nn.ReLU(), nn.Dropout(DROPOUT_RATE)]

        model = nn.Sequential(nn.Flatten(), *dense(784, 512), *dense(512, 512), nn.Linear(512, 10))
        for module in model:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        return model.to(device)

    if work.network != "mlp":
        raise SystemExit("torch_func.py has the mlp alone")
    models = [network() for _ in range(work.members)]
    params, buffers = stack_module_state(models)
    base = network()
    matrices = [value for value in params.values() if value.ndim > 2]
    vectors = [value for value in params.values() if value.ndim <= 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, work.num_steps)

    def loss_fn(params, buffers, image, label):
        logits = functional_call(base, (params, buffers), (image,))
        return nn.functional.cross_entropy(logits, label)

    gradient = vmap(grad(loss_fn), in_dims=(0, 0, None, None), randomness="different")
    forward = vmap(
        lambda params, buffers, image: functional_call(base, (params, buffers), (image,)),
        in_dims=(0, 0, None),
        randomness="different",
    )

    image, label = read_mnist(work.folder, "train", work.examples)
    images, labels = torch.from_numpy(normalise(image)).to(device), torch.from_numpy(label).to(device)

    def epochs():
        for _ in range(work.epochs):
            base.train()
            order = torch.randperm(len(images), device=device)
            for start in range(0, work.steps_per_epoch * work.batch_size, work.batch_size):
                index = order[start : start + work.batch_size]
                grads = gradient(params, buffers, images[index], labels[index])
                for name, value in params.items():
                    value.grad = grads[name]
                optimizer.step()
                scheduler.step()
            if device == "cuda":
                torch.cuda.synchronize()
            yield

    def accuracy() -> float:
        image, label = read_mnist(work.folder, "t10k")
        test = torch.from_numpy(normalise(image)).to(device)
        base.eval()
        with torch.no_grad():
            answers = torch.cat([forward(params, buffers, part).argmax(-1) for part in test.split(1000)], dim=1)
        return float((answers.cpu() == torch.from_numpy(label)).float().mean())

    return Contestant(epochs(), accuracy)


if __name__ == "__main__":
    serve(make, ("vmap",))
