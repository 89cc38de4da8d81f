"""Small count data and the ways others store it."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix


def small_adata(n_cells=60, n_genes=25, seed=0, dtype=np.float32):
    """Counts with two label columns, a number and a bool; every cell and gene has counts."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.6, (n_cells, n_genes))
    counts[:, 0] += 1
    counts[rng.integers(0, n_cells, n_genes), np.arange(n_genes)] += 1
    counts[3, 5] = 300  # needs two bytes
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["T", "B", "NK"], n_cells)),
            "donor": [f"d{k}" for k in np.arange(n_cells) % 5],
            "age": rng.integers(20, 80, n_cells),
            "treated": rng.random(n_cells) < 0.5,
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame({"symbol": [f"S{g}" for g in range(n_genes)]}, index=[f"g{g}" for g in range(n_genes)])
    return ad.AnnData(csr_matrix(counts.astype(dtype)), obs=obs, var=var)


def write_10x_h5(path, adata, *, version, peaks=0):
    """Write the file that Cell Ranger 2 or 3 would; the last `peaks` features are peaks."""
    names = [name.encode() for name in adata.var_names]
    symbols = [b"SAME" if i < 2 else name for i, name in enumerate(names)]
    with h5py.File(path, "w") as root:
        group = root.create_group("matrix" if version == 3 else "hg19")
        group["barcodes"] = [name.encode() for name in adata.obs_names]
        matrix = adata.X.astype(np.int32)
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["shape"] = adata.shape[::-1]
        if version == 3:
            kinds = [b"Gene Expression"] * (len(names) - peaks) + [b"Peaks"] * peaks
            group["features/id"], group["features/name"], group["features/feature_type"] = names, symbols, kinds
        else:
            group["genes"], group["gene_names"] = names, symbols


def write_10x_folder(path, adata, *, suffix=""):
    """Write matrix.mtx, barcodes.tsv and features.tsv, entries in an order of no use."""
    import gzip

    opener = gzip.open if suffix else open
    path.mkdir()
    coo = adata.X.tocoo()
    order = np.random.default_rng(0).permutation(coo.nnz)
    with opener(path / f"matrix.mtx{suffix}", "wt") as file:
        file.write("%%MatrixMarket matrix coordinate integer general\n%made by a test\n")
        file.write(f"{adata.n_vars} {adata.n_obs} {coo.nnz}\n")
        for k in order:
            file.write(f"{coo.col[k] + 1} {coo.row[k] + 1} {int(coo.data[k])}\n")
    with opener(path / f"barcodes.tsv{suffix}", "wt") as file:
        file.write("".join(f"{name}\n" for name in adata.obs_names))
    with opener(path / f"features.tsv{suffix}", "wt") as file:
        file.write("".join(f"ENS{i}\t{name}\tGene Expression\n" for i, name in enumerate(adata.var_names)))


def same_counts(store, adata):
    """Whether a store read by anndata has the counts of `adata`, cells and genes matched by name."""
    expected = adata[store.obs_names, store.var_names].X
    expected = expected.toarray() if hasattr(expected, "toarray") else np.asarray(expected)
    return np.array_equal(store.X.toarray(), expected)
