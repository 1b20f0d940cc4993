"""Whether a model can be what the settings say: known before a minute goes into images for it."""

from __future__ import annotations

import torch

from pipeline.config import ModelConfig
from pipeline.errors import ModelError
from pipeline.models.backbone import load_backbone
from pipeline.models.classifier import Classifier


@torch.no_grad()
def check_model(config: ModelConfig, image_size: int) -> None:
    """Build the model, with its weights where they are in a file, and show it an image; nothing is downloaded.

    Raises ModelError for a name, tag or weight file that cannot be, a head that needs a text tower where there is none,
    and images of a size that it does not take.
    """
    in_reach = config.weight_tag is None
    backbone = load_backbone(config, pretrained=in_reach)
    if in_reach and backbone.clip is None:
        if config.contrastive is not None:
            raise ModelError("model.contrastive: the backbone has no text tower; give model.architecture.text_cfg")
        if config.head == "zero_shot":
            raise ModelError(
                "model.head: 'zero_shot' needs a text tower; use 'linear_probe' or an open_clip model with text_cfg"
            )
    try:
        Classifier(backbone, 1).eval()(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
    except Exception as error:  # of any kind: an architecture may have anything in its numbers' place
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"data.image_size: the model takes no images of {image_size} x {image_size} pixels ({reason}); "
            "set it to the size that the model was made for"
        ) from error
