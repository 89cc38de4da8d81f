"""How good are generated cells? Real test cells beside generated cells, and beside every number its floor.

The floor is what the same metrics say of real training cells: the best a generator can be asked for.
`evaluate` compares stores or AnnData, in shards, and writes the report; `Reference` and `ChromatinReference` score
count matrices in memory.
"""

from cfgen_dist.evaluation.control import independent_genes
from cfgen_dist.evaluation.reference import ChromatinReference, Reference
from cfgen_dist.evaluation.run import evaluate
from cfgen_dist.evaluation.selection import matched_rows
from cfgen_dist.evaluation.summary import summarise

__all__ = ["ChromatinReference", "Reference", "evaluate", "independent_genes", "matched_rows", "summarise"]
