"""CFGen: a flow-matching generator of single-cell counts, trained out of core and run in shards."""
