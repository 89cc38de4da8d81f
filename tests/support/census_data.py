"""A small store in the form of the CELLxGENE Census, schema 2.4.0, as its builder makes it.

Names, types and tiles are those of tools/cellxgene_census_builder (build_soma/globals.py) of
chanzuckerberg/cellxgene-census and of docs/cellxgene_census_schema.md; values are drawn here.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import tiledbsoma
from scipy import sparse

TERMS = (
    "dataset_id", "assay", "assay_ontology_term_id", "cell_type", "cell_type_ontology_term_id", "development_stage",
    "development_stage_ontology_term_id", "disease", "disease_ontology_term_id", "donor_id", "self_reported_ethnicity",
    "self_reported_ethnicity_ontology_term_id", "sex", "sex_ontology_term_id", "suspension_type", "tissue",
    "tissue_ontology_term_id", "tissue_type", "tissue_general", "tissue_general_ontology_term_id",
)  # fmt: skip
NUMBERS = {"raw_sum": pa.float64(), "nnz": pa.int64(), "raw_mean_nnz": pa.float64(), "raw_variance_nnz": pa.float64()}
TILES = {
    "tiledb": {
        "create": {
            "capacity": 1 << 16,
            "dims": {
                "soma_dim_0": {"tile": 2048, "filters": [{"_type": "ZstdFilter", "level": 9}]},
                "soma_dim_1": {"tile": 2048, "filters": ["ByteShuffleFilter", {"_type": "ZstdFilter", "level": 9}]},
            },
            "attrs": {"soma_data": {"filters": ["ByteShuffleFilter", {"_type": "ZstdFilter", "level": 9}]}},
            "cell_order": "row-major",
            "tile_order": "row-major",
            "allows_duplicates": True,
        }
    }
}
ORGANISMS = {"homo_sapiens": ("NCBITaxon:9606", "Homo sapiens"), "mus_musculus": ("NCBITaxon:10090", "Mus musculus")}
ROWS = 16_384  # cells written at a time


def draw(n_cells, n_genes, seed=0, density=0.2):
    """obs and counts (float32 CSR) of an organism; every fifth cell is a copy of a cell of another dataset."""
    rng = np.random.default_rng(seed)
    counts = sparse.random(n_cells, n_genes, density, "csr", np.float32, rng)
    counts.data = np.ceil(counts.data * 9).astype(np.float32)
    obs = pd.DataFrame(index=range(n_cells))
    for name in TERMS:
        obs[name] = rng.choice([f"{name} {i}" for i in range(3)], n_cells)
    obs["tissue_general"] = rng.choice(["lung", "blood", "brain"], n_cells)
    obs["cell_type"] = rng.choice(["alveolar macrophage", "B cell", "club cell"], n_cells)
    obs["is_primary_data"] = np.arange(n_cells) % 5 != 0
    obs["observation_joinid"] = [f"{i:010x}" for i in rng.permutation(n_cells)]
    totals, lengths = np.asarray(counts.sum(1)).ravel(), np.diff(counts.indptr)
    obs["raw_sum"], obs["nnz"] = totals.astype(float), lengths.astype(np.int64)
    obs["raw_mean_nnz"] = totals / np.maximum(lengths, 1)
    obs["raw_variance_nnz"], obs["n_measured_vars"] = 1.0, n_genes
    return obs, counts


def write_census(root, n_cells=600, n_genes=40, organisms=tuple(ORGANISMS), density=0.2):
    """Write a Census at `root`, a path or URI; {organism: (obs, counts)}."""
    root, made = str(root), {}
    with tiledbsoma.Collection.create(root) as census:
        data, info = census.add_new_collection("census_data"), census.add_new_collection("census_info")
        for number, organism in enumerate(organisms):
            made[organism] = draw(n_cells, n_genes, seed=number, density=density)
            _experiment(data, organism, *made[organism])
        _info(info, organisms, made)
        data.close()
        info.close()
    return made


def _experiment(data, organism, obs, counts):
    experiment = data.add_new_collection(organism, tiledbsoma.Experiment)
    n_cells, n_genes = counts.shape
    text = pa.dictionary(pa.int32(), pa.large_string())
    fields = [("soma_joinid", pa.int64()), *((name, text) for name in TERMS), ("is_primary_data", pa.bool_())]
    fields += [("observation_joinid", pa.large_string()), *NUMBERS.items(), ("n_measured_vars", pa.int64())]
    obs = obs.assign(soma_joinid=np.arange(n_cells), **{name: obs[name].astype("category") for name in TERMS})
    _table(experiment, "obs", pa.schema(fields), obs)
    measurement = experiment.add_new_collection("ms").add_new_collection("RNA", tiledbsoma.Measurement)
    var = pd.DataFrame({
        "soma_joinid": np.arange(n_genes),
        "feature_id": [f"ENSG{i:011d}" for i in range(n_genes)],
        "feature_name": [f"GENE{i % (n_genes - 1)}" for i in range(n_genes)],  # symbols repeat in the Census
        "feature_type": "protein_coding",
        "feature_length": np.arange(n_genes) + 500,
        "nnz": np.asarray((counts > 0).sum(0)).ravel().astype(np.int64),
        "n_measured_obs": n_cells,
    })  # fmt: skip
    types = [pa.int64(), *[pa.large_string()] * 3, *[pa.int64()] * 3]
    _table(measurement, "var", pa.schema(list(zip(var.columns, types, strict=True))), var)
    layers = measurement.add_new_collection("X")
    normalised = counts.multiply(1 / np.maximum(counts.sum(1), 1)).tocsr().astype(np.float32)
    for name, values in (("raw", counts), ("normalized", normalised)):
        layer = layers.add_new_sparse_ndarray(name, type=pa.float32(), shape=counts.shape, platform_config=TILES)
        for start in range(0, n_cells, ROWS):
            part = values[start : start + ROWS].tocoo()
            columns = {"soma_dim_0": part.row.astype(np.int64) + start, "soma_dim_1": part.col.astype(np.int64)}
            layer.write(pa.table(columns | {"soma_data": part.data}))
        layer.close()
    presence = measurement.add_new_sparse_ndarray(
        "feature_dataset_presence_matrix", type=pa.bool_(), shape=(3, n_genes)
    )
    presence.write(pa.SparseCOOTensor.from_scipy(sparse.coo_matrix(np.ones((3, n_genes), bool))))
    for each in (presence, layers, measurement, experiment.ms, experiment):
        each.close()


def _info(info, organisms, made):
    n = sum(len(obs) for obs, _ in made.values())
    unique = sum(int(obs["is_primary_data"].sum()) for obs, _ in made.values())
    said = {
        "census_schema_version": "2.4.0", "census_build_date": "2025-11-08", "dataset_schema_version": "7.0.0",
        "total_cell_count": str(n), "unique_cell_count": str(unique),
    }  # fmt: skip
    table = pd.DataFrame({"soma_joinid": range(len(said)), "label": list(said), "value": list(said.values())})
    types = [("soma_joinid", pa.int64()), ("label", pa.large_string()), ("value", pa.large_string())]
    _table(info, "summary", pa.schema(types), table)
    names = ("soma_joinid", "organism_ontology_term_id", "organism_label", "organism")
    rows = [(number, *ORGANISMS[name], name) for number, name in enumerate(organisms)]
    schema = pa.schema([(name, pa.int64() if name == "soma_joinid" else pa.large_string()) for name in names])
    _table(info, "organisms", schema, pd.DataFrame(rows, columns=names))


def _table(parent, name, schema, frame):
    """A table of its own, then a member: one that is written as it is added loses its dictionaries."""
    uri = f"{parent.uri}/{name}"
    tiledbsoma.DataFrame.create(uri, schema=schema, domain=[[0, max(len(frame) - 1, 0)]]).close()
    with tiledbsoma.DataFrame.open(uri, "w") as table:
        table.write(pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False))
    parent.set(name, tiledbsoma.open(uri), use_relative_uri=True)
