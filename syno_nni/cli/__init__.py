"""The `syno-nni` command line: :mod:`.main` and one module per command."""
