from .config import DataConfig as DataConfig
from .datasets import ImageArray as ImageArray
from .datasets import Splits as Splits
from .datasets import load_data as load_data
