"""Search over hyper-parameters and static choices: what is asked, trained, told, and what came of it.

Imports everything of jaxtrain but the scripts; Optuna inside the functions that need it. A trial goes through `study`
(asked and told, shared by workers), `rounds` (trained as members, thinned out by halving) and `findings` (summed up and
written); `run` holds them together. What is searched is written down in `jaxtrain.space`.
"""

from jaxtrain.search.run import SearchResult, run_search

__all__ = ["SearchResult", "run_search"]
