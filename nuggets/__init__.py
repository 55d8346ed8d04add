"""Find where a language model keeps a skill, move it into a smaller one, prove whether it helped.

Everything is in `nuggets.api`, which is light to import:

    from nuggets import api
    run = api.run(api.load_recipe("quick"))
    print(api.report(run).verdict.sentence)
"""

from nuggets.errors import NuggetsError

__all__ = ["NuggetsError", "__version__"]
__version__ = "0.2.0"  # the only place: pyproject.toml and run records read it from here
