"""A package as somebody else would write it: one thing of each kind, and the lines that add them to the tables."""

from bistro.leave_one_out import LEAVE_ONE_OUT
from bistro.leave_one_out_section import LEAVE_ONE_OUT_SECTION
from bistro.model_stock import MODEL_STOCK
from bistro.momentum import MOMENTUM
from bistro.stripes import STRIPES
from bistro.worst_class import WORST_CLASS
from pipeline.data.sources import SOURCES
from pipeline.finetune import TRAINERS
from pipeline.metrics import METRICS
from pipeline.models import BACKBONES
from pipeline.report import SECTIONS
from pipeline.soups import METHODS
from pipeline.studies import STUDIES

SOURCES["stripes"] = STRIPES
BACKBONES["patches"] = "bistro.patches"
METRICS["worst_class"] = WORST_CLASS
TRAINERS["momentum"] = MOMENTUM
METHODS["model-stock"] = MODEL_STOCK
STUDIES["leave-one-out"] = LEAVE_ONE_OUT
SECTIONS["leave-one-out"] = LEAVE_ONE_OUT_SECTION
