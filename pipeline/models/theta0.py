"""theta0: the starting point that all trials of a run share, tower and head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import ResNet18_Weights

from pipeline.config import ContrastiveConfig, ModelConfig
from pipeline.errors import ModelError
from pipeline.models.backbone import Backbone, load_backbone
from pipeline.models.batchnorm import RECALIBRATION_IMAGES, recalibrate_batchnorm
from pipeline.models.classifier import Classifier
from pipeline.models.linear_probe import linear_probe
from pipeline.precision import Precision, arithmetic

if TYPE_CHECKING:
    from pipeline.data import TrainingExamples


def make_theta0(
    config: ModelConfig,
    class_names: Sequence[str],
    train: TrainingExamples,
    pretrain: tuple[Tensor, Tensor] | None,
    *,
    device: str,
    seed: int,
    local: Mapping[str, Tensor] | None = None,
    precision: Precision | None = None,
) -> Classifier:
    """Load the backbone, train it contrastively if ``config`` says so, and initialise the head.

    BatchNorm statistics are renewed on training images, so that training starts at the loss that evaluation finds.
    ``pretrain`` are uint8 images (N, 3, H, W) and labels (N,), ``local`` is as for `load_backbone`. The towers compute
    in ``precision``, the head is fitted in float32. Returns the classifier on the CPU. Raises ModelError when the
    backbone cannot give what the settings ask for.
    """
    torch.manual_seed(seed)
    backbone = load_backbone(config, pretrained=True, local=local)
    model = Classifier(backbone, len(class_names)).to(device).eval()
    if config.contrastive is not None:
        if pretrain is None:
            raise ModelError("model.contrastive: there is no pretrain split; set data.pretrain_size")
        texts = captions(config, class_names)
        _train_contrastive(model, backbone, config.contrastive, *texts, pretrain, device, precision)
    # Trials compute with the statistics of their batches, and the head is for what they begin with.
    recalibrate_batchnorm(model, train.sample(RECALIBRATION_IMAGES), device, precision)
    if config.head == "zero_shot":
        _zero_shot_head(model, backbone, *captions(config, class_names), device, precision)
    elif config.head == "linear_probe":
        _linear_probe_head(model, train, device, seed, precision)
    return model.cpu()


def captions(config: ModelConfig, class_names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Templates with ``{}`` for a class name, and the class names to put in.

    Where the classes are ImageNet's, both are those that CLIP was evaluated with, unless the settings give templates.
    """
    if config.templates is not None:
        return config.templates, class_names
    if list(class_names) != ResNet18_Weights.IMAGENET1K_V1.meta["categories"]:
        return ["a photo of a {}."], class_names
    import open_clip  # slow to import, and only this case needs it

    return [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES], open_clip.IMAGENET_CLASSNAMES


def _train_contrastive(
    model: Classifier,
    backbone: Backbone,
    settings: ContrastiveConfig,
    templates: Sequence[str],
    class_names: Sequence[str],
    pretrain: tuple[Tensor, Tensor],
    device: str,
    precision: Precision | None,
) -> None:
    """CLIP's symmetric loss; captions of the same class in a batch are all correct, so the targets are shared."""
    if backbone.clip is None or backbone.tokenize is None:
        raise ModelError("model.contrastive: the backbone has no text tower; give model.architecture.text_cfg")
    images, labels = pretrain
    clip = backbone.clip.to(device).train()
    captions = torch.stack([backbone.tokenize([t.replace("{}", name) for name in class_names]) for t in templates]).to(
        device
    )
    batch = min(settings.batch_size, len(labels))
    steps = settings.epochs * math.ceil(len(labels) / batch)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=settings.lr, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps, pct_start=0.1)
    for _ in range(settings.epochs):
        for index in torch.randperm(len(labels)).split(batch):
            target = labels[index].to(device)
            text = captions[torch.randint(len(templates), (len(index),)), target]
            with arithmetic(device, precision):
                image_features = model.features(images[index].to(device)).float()
                text_features = F.normalize(clip.encode_text(text).float(), dim=-1)  # type: ignore[operator]
            logits = clip.logit_scale.exp() * image_features @ text_features.T  # type: ignore[operator]
            same = (target[:, None] == target[None, :]).float()
            same = same / same.sum(1, keepdim=True)
            loss = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    clip.eval()


@torch.no_grad()
def _zero_shot_head(
    model: Classifier,
    backbone: Backbone,
    templates: Sequence[str],
    class_names: Sequence[str],
    device: str,
    precision: Precision | None,
) -> None:
    """Mean text feature per class over the templates (Sec. 3.1 of model-soups), ``logit_scale`` folded in."""
    if backbone.clip is None or backbone.tokenize is None:
        raise ModelError(
            "model.head: 'zero_shot' needs a text tower; use 'linear_probe' or an open_clip model with text_cfg"
        )
    clip = backbone.clip.to(device)
    for row, name in enumerate(class_names):
        tokens = backbone.tokenize([template.replace("{}", name) for template in templates]).to(device)
        with arithmetic(device, precision):
            text = clip.encode_text(tokens).float()  # type: ignore[operator]
        text = F.normalize(text, dim=-1).mean(0)
        model.head.weight[row] = clip.logit_scale.exp() * F.normalize(text, dim=-1)  # type: ignore[operator]
    model.head.bias.zero_()


@torch.no_grad()
def _linear_probe_head(
    model: Classifier, train: TrainingExamples, device: str, seed: int, precision: Precision | None
) -> None:
    """`linear_probe` on the features of all training images, as evaluation computes them."""
    with arithmetic(device, precision):
        pairs = [
            (model.features(images.to(device)).float(), labels.to(device)) for images, labels in train.ordered(128)
        ]
    features, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    with torch.enable_grad():
        weight, bias = linear_probe(features, labels, model.head.out_features, seed)
    model.head.weight.copy_(weight)
    model.head.bias.copy_(bias)
