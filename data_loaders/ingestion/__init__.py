"""Sources of counts to one atlas, out of core: `ingest.ingest`."""
