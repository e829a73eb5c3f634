"""The top floor, where the parts meet: run a search, make a retrofit of what it found."""
import syno_nni.nas  # noqa: F401 - silences a warning of NNI's import, before the modules below import NNI
