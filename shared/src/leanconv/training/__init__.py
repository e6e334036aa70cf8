"""Training by recipe: one loop, exact resume, run folders.

    from leanconv import training
    result = training.fit(None, training.Recipe(model="convnext_tiny_1d", data="cifar10"), out="runs/one")
"""

from leanconv.training.fit import Result, fit, resume
from leanconv.training.recipe import ConfigError, Recipe
from leanconv.training.trainer import Diverged, Interrupted, evaluate

__all__ = ["ConfigError", "Diverged", "Interrupted", "Recipe", "Result", "evaluate", "fit", "resume"]
