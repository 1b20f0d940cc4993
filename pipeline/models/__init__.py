"""Backbone and classification head as one module, and the starting point theta0 of a sweep."""

from pipeline.models.backbone import BACKBONES, Backbone, BackboneModule, backbone_file, backbone_module, load_backbone
from pipeline.models.batchnorm import RECALIBRATION_IMAGES, has_batchnorm, recalibrate_batchnorm
from pipeline.models.check import check_model
from pipeline.models.classifier import Classifier, build_classifier, describe_model
from pipeline.models.foreign import own_names, read_own
from pipeline.models.theta0 import make_theta0

__all__ = [
    "BACKBONES",
    "RECALIBRATION_IMAGES",
    "Backbone",
    "BackboneModule",
    "Classifier",
    "backbone_file",
    "backbone_module",
    "build_classifier",
    "check_model",
    "describe_model",
    "has_batchnorm",
    "load_backbone",
    "make_theta0",
    "own_names",
    "read_own",
    "recalibrate_batchnorm",
]
