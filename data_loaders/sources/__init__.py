"""Where counts come from: one file a format, all opened by `open.open_source`."""
