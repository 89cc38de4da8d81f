"""Which axis of a matrix is the genes, told by the names; nothing is said where the names do not make it certain."""

import re
from collections.abc import Sequence
from typing import TypeAlias

import pandas as pd

Names: TypeAlias = Sequence[str] | pd.Index
MOST = 0.5  # share of the names that must be of a kind
SOME = 0.02  # share of well-known symbols in a list of genes: they are about one in forty of all
LOOKED_AT = 2_000  # of a long list, evenly apart
ENSEMBL = r"ENS[A-Z]{0,6}[GT]\d{11}(\.\d+)?|ENS[A-Z]{0,6}G\d{11}(\.\d+)?_.*|FBgn\d{7}|WBGene\d{8}|Y[A-P][LR]\d{3}[WC].*"
OTHER_IDS = r"AT[1-5CM]G\d{5}(\.\d+)?|LOC\d+|gene[_. -]?\d+"
GENE_IDS = re.compile(rf"(\w+_+)?({ENSEMBL}|{OTHER_IDS})", re.IGNORECASE)
SYMBOLS = re.compile(
    r"(\w+_+)?(MT-(ND[1-6]|ND4L|CO[1-3]|ATP[68]|CYB)|RP[LS]\d+[AXYL]?\d*|RPLP[012]|ACTB|GAPDH|B2M|MALAT1|TMSB4X|TMSB10|"
    r"EEF1A1|EEF2|FTL|FTH1|TPT1|UBC|PTPRC|CD3[DEG]|CD4|CD8[AB]|CD14|CD19|CD74|CD79[AB]|MS4A1|NKG7|GNLY|LYZ|LYZ[12]|"
    r"S100A\d+|HLA-[A-Z0-9]+|HSP[A-Z0-9]+|COL\d+A\d|KRT\d+|ZNF\d+|SLC\d+A\d+|TMEM\d+|TUB[AB]\w+|HNRN\w+|NDUF\w+|"
    r"ATP\d\w+|PSM[A-G]\d+|COX\d\w+|MRP[LS]\d+)",
    re.IGNORECASE,
)
BARCODES = re.compile(r"(.*[^A-Za-z])?[ACGTN]{8,}([^A-Za-z].*)?|(.*[_.\- ])?cell[_. -]?\d+", re.IGNORECASE)


def look_like_genes(names: Names) -> bool:
    """Whether names are certainly those of genes: identifiers of databases, or well-known symbols among them."""
    texts = _some(names)
    if not texts:
        return False
    if sum(GENE_IDS.fullmatch(text) is not None for text in texts) >= MOST * len(texts):
        return True
    known = {text.upper() for text in texts if SYMBOLS.fullmatch(text)}
    return len(known) >= max(3, SOME * len(texts))


def look_like_cells(names: Names) -> bool:
    """Whether names are certainly those of cells: barcodes, or numbers after the word "cell"."""
    texts = _some(names)
    return bool(texts) and sum(BARCODES.fullmatch(text) is not None for text in texts) >= MOST * len(texts)


def is_turned(obs: Names, var: Names) -> bool:
    """Whether the names of cells are certainly those of genes, and the names of genes are not."""
    return not look_like_genes(var) and look_like_genes(obs)


def genes_are_in_rows(rows: Names, columns: Names) -> bool | None:
    """Whether rows are the genes (True) or the columns are (False); None where the names do not tell.

    Parameters
    ----------
    rows, columns : names of the two axes
    """
    gene_rows, gene_columns = look_like_genes(rows), look_like_genes(columns)
    if gene_rows != gene_columns:
        return gene_rows
    cell_rows, cell_columns = look_like_cells(rows), look_like_cells(columns)
    if not gene_rows and cell_rows != cell_columns:
        return cell_columns
    return None


def _some(names: Names) -> list[str]:
    """Some of the names, of the whole length of the list."""
    return [str(name) for name in names[:: max(len(names) // LOOKED_AT, 1)]]
