"""What the policies choose for a recipe on a device, and whether it fits there. Pure: no torch, files or clock."""

from colab_magics.plan.facts import (
    GIB,
    Choice,
    DataFacts,
    Device,
    Estimate,
    ModelShape,
    Plan,
    Setup,
    Verdict,
    from_log,
)
from colab_magics.plan.fit import Fit, budget, cap_for, fit
from colab_magics.plan.nearest import Change, length_that_fits, nearest_change
from colab_magics.plan.policies import GIVEN, choose_max_length, make_plan, setup_of

__all__ = [
    "GIB",
    "GIVEN",
    "Change",
    "Choice",
    "DataFacts",
    "Device",
    "Estimate",
    "Fit",
    "ModelShape",
    "Plan",
    "Setup",
    "Verdict",
    "budget",
    "cap_for",
    "choose_max_length",
    "fit",
    "from_log",
    "length_that_fits",
    "make_plan",
    "nearest_change",
    "setup_of",
]
