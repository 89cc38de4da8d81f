"""Atlas stores, written slice by slice: `writer.AtlasWriter`."""
