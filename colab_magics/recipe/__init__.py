"""Recipe: what to train and how, read from a cell."""

from colab_magics.recipe.fields import Recipe
from colab_magics.recipe.parse import Parsed, parse

__all__ = ["Parsed", "Recipe", "parse"]
