"""What setup.cfg cannot say: the README as a package index shows it, where links into the repository would lead nowhere."""
import re
from pathlib import Path

from setuptools import setup

_RELATIVE = re.compile(r'\[([^\[\]]*)\]\((?!https?://|#)[^()]*\)')

setup(long_description=_RELATIVE.sub(r'\1', Path(__file__).with_name('README.md').read_text(encoding='utf-8')),
      long_description_content_type='text/markdown')
