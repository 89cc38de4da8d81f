"""How good are generated cells? Real test cells beside generated cells, and beside every number its floor.

The floor is what the same metrics say of real training cells: the best a generator can be asked for.
`evaluate` compares stores or AnnData and writes the report; `Reference` scores count matrices directly.
"""

from cfgen_dist.evaluate.reference import Reference, independent_genes, matched_rows, summarise
from cfgen_dist.evaluate.run import evaluate

__all__ = ["Reference", "evaluate", "independent_genes", "matched_rows", "summarise"]
