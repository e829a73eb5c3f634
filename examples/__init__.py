"""Experiment YAMLs; `quickstart.yml` is what `syno-nni search` runs when it gets no file."""
