"""The `syno-nni` command line: one module per command."""
