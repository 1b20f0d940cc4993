"""Whether a model can be what the settings say: known before a minute goes into data for it."""

from __future__ import annotations

import torch

from pipeline.config import DataConfig, ModelConfig
from pipeline.data import KINDS, kind_of
from pipeline.errors import ModelError, first_line
from pipeline.models.backbone import load_backbone
from pipeline.models.classifier import Classifier


@torch.no_grad()
def check_model(config: ModelConfig, data: DataConfig) -> None:
    """Build the model, with its weights where they are in a file, and show it an example; nothing is downloaded.

    Raises ModelError for a name, tag or weight file that cannot be, a head that needs a text tower where there is none,
    and examples of a kind or form that it does not take.
    """
    in_reach = config.weight_tag is None
    backbone, kind = load_backbone(config, pretrained=in_reach), kind_of(data)
    if KINDS[backbone.kind] is not kind:
        raise ModelError(
            f"model.backbone: '{config.backbone}' takes {KINDS[backbone.kind].plural}, but source '{data.source}' "
            f"holds {kind.plural}; take another backbone or source"
        )
    if in_reach and backbone.clip is None:
        if config.contrastive is not None:
            raise ModelError("model.contrastive: the backbone has no text tower; give model.architecture.text_cfg")
        if config.head == "zero_shot":
            raise ModelError(
                "model.head: 'zero_shot' needs a text tower; use 'linear_probe' or an open_clip model with text_cfg"
            )
    model = Classifier(backbone, 1).eval()
    for example, misfit in kind.probes(data):
        try:
            model(torch.from_numpy(example)[None])
        except Exception as error:  # of any kind: an architecture may have anything in its numbers' place
            raise ModelError(misfit.replace("{reason}", first_line(error))) from error
