"""Conformance suites: what a third party's operator space, strategy or runtime must pass to work with the rest."""
