"""PyTorch, as its users write it: the typical loop, and what a careful one makes of it.

python benchmarks/peers/torch_loop.py fused --network mlp --data data

dataloader      TensorDataset, DataLoader (in this process, which is fastest here), AdamW
memory          all images in one tensor, each batch taken from it by index
fused           the same with AdamW in one kernel, zero_grad(set_to_none), no .item() in the loop
channels_last   the same with images and kernels in channels_last
bf16            the same under autocast to bfloat16
compile         the same under torch.compile
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

VERSIONS = ("dataloader", "memory", "fused", "channels_last", "bf16", "compile")


def make(work: Work) -> Contestant:
    """The training that `work` asks for."""
    os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(work.seed)
    torch.set_num_threads(num_cores())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    careful = work.version not in ("dataloader", "memory")
    channels_last = work.version in ("channels_last", "bf16", "compile") and work.network == "cnn"

    def tensors(split: str, count: int | None = None):
        image, label = read_mnist(work.folder, split, count)
        images = torch.from_numpy(normalise(image))[:, None]
        return images.to(device), torch.from_numpy(label).to(device)

    def conv(channels: int, features: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, features, 3, padding=1, bias=False),
            nn.BatchNorm2d(features),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def dense(size: int, width: int, drop: bool = True) -> nn.Sequential:
        layers = [nn.Linear(size, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        return nn.Sequential(*layers, *([nn.Dropout(DROPOUT_RATE)] if drop else []))

    if work.network == "mlp":
        model = nn.Sequential(nn.Flatten(), dense(784, 512), dense(512, 512), nn.Linear(512, 10))
    else:
        model = nn.Sequential(conv(1, 32), conv(32, 64), nn.Flatten(), dense(7 * 7 * 64, 128), nn.Linear(128, 10))
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    model = model.to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)

    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True if careful else None)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, work.num_steps)
    criterion = nn.CrossEntropyLoss()
    forward = torch.compile(model) if work.version == "compile" else model

    train_images, train_labels = tensors("train", work.examples)
    if channels_last:
        train_images = train_images.contiguous(memory_format=torch.channels_last)
    loader = DataLoader(TensorDataset(train_images, train_labels), work.batch_size, shuffle=True, drop_last=True)

    def batches():
        if work.version == "dataloader":
            yield from loader
            return
        order = torch.randperm(len(train_images), device=device)
        for start in range(0, work.steps_per_epoch * work.batch_size, work.batch_size):
            index = order[start : start + work.batch_size]
            yield train_images[index], train_labels[index]

    def epochs():
        for _ in range(work.epochs):
            model.train()
            total = torch.zeros((), device=device)
            running = 0.0
            for image, label in batches():
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device, dtype=torch.bfloat16, enabled=work.version == "bf16"):
                    loss = criterion(forward(image), label)
                loss.backward()
                optimizer.step()
                scheduler.step()
                if careful:
                    total += loss.detach()
                else:
                    running += loss.item()
            if device == "cuda":
                torch.cuda.synchronize()
            yield

    def accuracy() -> float:
        images, labels = tensors("t10k")
        model.eval()
        with torch.no_grad():
            answers = torch.cat([model(part).argmax(1) for part in images.split(1000)])
        return float((answers == labels).float().mean())

    return Contestant(epochs(), accuracy)


if __name__ == "__main__":
    serve(make, VERSIONS)
