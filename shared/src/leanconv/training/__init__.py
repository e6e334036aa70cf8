"""Training by recipe: one loop, exact resume, run folders.

Example:
    >>> from leanconv import training
    >>> recipe = training.Recipe(model="convnext_tiny_1d", data="cifar10")
    >>> training.fit(None, recipe, out="runs/one")  # doctest: +SKIP
"""

from leanconv.training.evaluation import evaluate
from leanconv.training.fit import Result, fit, load, resume
from leanconv.training.recipe import ConfigError, Recipe
from leanconv.training.trainer import Diverged, Interrupted

__all__ = ["ConfigError", "Diverged", "Interrupted", "Recipe", "Result", "evaluate", "fit", "load", "resume"]
