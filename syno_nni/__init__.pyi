from .errors import SynoError as SynoError
from .model_zoo.module_folder import load as load
from .operator import Operator as Operator
from .operator import Size as Size
from .operator import classics as classics
from .operator import draw as draw
from .operator import load_graph_dot as load_graph_dot
from .operator import read_graph_dot as read_graph_dot
from .plan.layer import SynthesizedLayer as SynthesizedLayer
from .search.api import SearchResult as SearchResult
from .search_spaces.retrofit import retrofit as retrofit
from .synthesis.space import OperatorSpace as OperatorSpace

__version__: str
