"""JSON that means what it says.

NNI reads every message as JSON with comments, and drops the rest of a line after ``//`` or ``#`` even inside nested
strings. A formula such as ``o//(C_out/s)`` then breaks the message, the connection, and with it the search. Importing
this module turns comments off in this process; NNI itself writes none.
"""
from __future__ import annotations

import nni

nni.load.__kwdefaults__['ignore_comments'] = False
