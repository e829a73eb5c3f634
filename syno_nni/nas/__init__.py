"""The glue to NNI."""
