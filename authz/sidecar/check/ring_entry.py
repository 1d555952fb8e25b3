"""What stands in a worker's ring: the first byte of an entry says which of two things it is."""

from __future__ import annotations

from typing import Final

#: a record of a decision
RECORD: Final = b"R"
#: a level and a text for the process's log
LOG_LINE: Final = b"L"
